"""Bilevel training: a backbone whose features are judged by sparse heads fitted to them."""
