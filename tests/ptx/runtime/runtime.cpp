// What modules are linked with: compiled once, as it is the same for all of them.
#include "ptx_runtime.h"

extern "C" __attribute__((visibility("default"))) void ptx_launch(const ptx::LaunchRequest* request,
                                                                  ptx::Result* result) {
  ptx::launch(*request, result);
}

#ifdef PTX_STANDALONE
#include "standalone.h"
#endif
