"""Images under a shift of domain, kept as <domain>/<class>/<image>: PACS, VLCS, OfficeHome, yours.

Names of domains and layout of those three are as in DomainBed (Gulrajani and Lopez-Paz, "In search
of lost domain generalization", ICLR 2021). Nothing is downloaded, and no image is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sparsedis_kernels.data.labelled import Labelled

_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_pacs(root: str | Path) -> Labelled:
    """PACS: 9,991 pictures of 7 classes; domains art_painting, cartoon, photo, sketch.

    Args:
        root: the folder that holds the folders of the domains, or one that holds it as ``PACS``.

    Returns:
        N paths (jpg, jpeg or png in any case; other files and hidden ones are left out), sorted by
        domain, class and name; ``labels`` and ``domains`` (N,) int64; ``test`` (N,) bool, False
        everywhere since there is no test split; ``classes`` sorted as strings, as in DomainBed.

    Raises:
        FileNotFoundError: the folder of a domain is missing, or no folder of a class has an image.
        ValueError: a domain has no image of a class that another domain has.

    Source:
        D. Li et al., "Deeper, broader and artier domain generalization", ICCV 2017.
    """
    return _load("pacs", root, ("art_painting", "cartoon", "photo", "sketch"), ("PACS",))


def load_vlcs(root: str | Path) -> Labelled:
    """VLCS: 10,729 photos of 5 classes; domains Caltech101, LabelMe, SUN09, VOC2007.

    Args:
        root: the folder that holds the folders of the domains, or one that holds it as ``VLCS``.

    Returns:
        As ``load_pacs``.

    Raises:
        FileNotFoundError: the folder of a domain is missing, or no folder of a class has an image.
        ValueError: a domain has no image of a class that another domain has.

    Source:
        C. Fang, Y. Xu and D. N. Rockmore, "Unbiased metric learning: on the utilization of multiple
        datasets and web images for softening bias", ICCV 2013.
    """
    return _load("vlcs", root, ("Caltech101", "LabelMe", "SUN09", "VOC2007"), ("VLCS",))


def load_office_home(root: str | Path) -> Labelled:
    """OfficeHome: 15,588 pictures of 65 classes; domains Art, Clipart, Product, Real World.

    Args:
        root: the folder that holds the folders of the domains, or one that holds it as
            ``office_home``, ``OfficeHome`` or ``OfficeHomeDataset_10072016``. The last domain's
            folder may also be called ``Real_World`` or ``RealWorld``.

    Returns:
        As ``load_pacs``.

    Raises:
        FileNotFoundError: the folder of a domain is missing, or no folder of a class has an image.
        ValueError: a domain has no image of a class that another domain has.

    Source:
        H. Venkateswara et al., "Deep hashing network for unsupervised domain adaptation",
        CVPR 2017.
    """
    folders = ("office_home", "OfficeHome", "OfficeHomeDataset_10072016")
    return _load("office_home", root, ("Art", "Clipart", "Product", "Real World"), folders)


def load_folder(root: str | Path) -> Labelled:
    """Images of your own: every folder in ``root`` is a domain, every folder in that a class.

    Args:
        root: the folder that holds the folders of the domains.

    Returns:
        As ``load_pacs``, named as the folder; domains and classes are sorted as strings. A domain
        may lack a class that another one has, and a folder without images is no domain.

    Raises:
        FileNotFoundError: there is no image in a folder of a folder in ``root``.
    """
    place = Path(root)
    images = {folder.name: _images(folder) for folder in sorted(place.glob("[!.]*"))}
    domains = tuple(domain for domain, by_class in images.items() if by_class)
    if not domains:
        raise FileNotFoundError(
            f"load_folder: expected images in '{root}' as <domain>/<class>/*.jpg (or jpeg, png)"
        )
    found = [images[domain] for domain in domains]
    return _labelled(place.resolve().name, found, sorted(set[str]().union(*found)), domains)


def _load(
    name: str, root: str | Path, domains: tuple[str, ...], folders: Sequence[str]
) -> Labelled:
    """The images in ``root``, or in the first of its ``folders`` that has all the domains."""
    places = [Path(root), *(Path(root, folder) for folder in folders)]
    has_all = (p for p in places if all(_domain_folder(p, domain).is_dir() for domain in domains))
    place = next(has_all, None)
    found = [_images(_domain_folder(place, domain)) for domain in domains] if place else []
    classes = sorted(set[str]().union(*found))
    if not classes:
        others = ", ".join(f"'{other}'" for other in places[1:])
        raise FileNotFoundError(
            f"load_{name}: expected folders {', '.join(domains)} in '{root}' (or in {others}); "
            "put the images there as <domain>/<class>/*.jpg"
        )
    for domain, images in zip(domains, found, strict=True):
        if missing := [label for label in classes if label not in images]:
            raise ValueError(
                f"load_{name}: domain {domain!r} in '{place}' has no images of class {missing[0]!r}"
            )
    return _labelled(name, found, classes, domains)


def _labelled(
    name: str,
    found: Sequence[dict[str, list[Path]]],
    classes: Sequence[str],
    domains: tuple[str, ...],
) -> Labelled:
    """Put the images of all domains, by class, in one row."""
    examples = [
        (path, label, domain)
        for domain, images in enumerate(found)
        for label, label_name in enumerate(classes)
        for path in images.get(label_name, ())
    ]
    inputs, labels, numbers = zip(*examples, strict=True)
    return Labelled(
        name=name,
        inputs=inputs,
        labels=torch.tensor(labels),
        domains=torch.tensor(numbers),
        test=torch.zeros(len(inputs), dtype=torch.bool),
        classes=tuple(classes),
        domain_names=domains,
    )


def _domain_folder(place: Path, domain: str) -> Path:
    """The folder of a domain; copies differ in how they write the space in its name."""
    spellings = [place / domain.replace(" ", space) for space in (" ", "_", "")]
    return next((folder for folder in spellings if folder.is_dir()), spellings[0])


def _images(folder: Path) -> dict[str, list[Path]]:
    """Paths of the images by class, for the classes that have any."""
    # Archives packed on a Mac hold a hidden "._a.jpg" next to each "a.jpg", which is no image.
    images = [path for path in folder.glob("[!.]*/[!.]*") if path.suffix.lower() in _SUFFIXES]
    by_class: dict[str, list[Path]] = {}
    # By name: how paths themselves compare depends on the system.
    for path in sorted(images, key=lambda path: path.name):
        by_class.setdefault(path.parent.name, []).append(path)
    return by_class
