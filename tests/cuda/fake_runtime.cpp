// Takes the place of the CUDA runtime, and of what the library asks of a PyTorch with CUDA: it has
// Python launch the kernels. For a library that is linked with it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>

namespace {

struct Dim3 {
  unsigned x, y, z;
};

// Executes a kernel, by its name in the PTX, and returns an error code.
using Launch = int (*)(const char* entry, unsigned grid, unsigned block, size_t shared,
                       int cooperative, const void* parameter, void* stream);
Launch launch_in_python = nullptr;

struct Kernel {
  std::string entry;
  size_t shared = 48 * 1024 - 1024;  // what it may have, beside its own scratch, unasked
};

std::map<const void*, Kernel>& kernels() {
  static std::map<const void*, Kernel> known;
  return known;
}

constexpr int kInvalidValue = 1, kTooLarge = 720, kSharedOptin = 97, kProcessors = 16,
              kMaxDynamicShared = 8;

int launch(const void* kernel, Dim3 grid, Dim3 block, void** parameters, size_t shared,
           int cooperative, void* stream) {
  const Kernel& known = kernels().at(kernel);
  if (shared > known.shared || grid.y != 1 || grid.z != 1) return kInvalidValue;
  return launch_in_python(known.entry.c_str(), grid.x, block.x, shared, cooperative, parameters[0],
                          stream);
}

}  // namespace

extern "C" {

void fake_launches(Launch launch) { launch_in_python = launch; }

int cudaSetDevice(int) { return 0; }
const char* cudaGetErrorString(int error) { return error == kInvalidValue ? "bad" : "broken"; }

int cudaDeviceGetAttribute(int* value, int name, int) {
  *value = name == kSharedOptin ? 99 * 1024 : name == kProcessors ? 2 : -1;
  return 0;
}

int cudaFuncSetAttribute(const void* kernel, int name, int value) {
  if (name != kMaxDynamicShared || value > 98 * 1024) return kInvalidValue;
  kernels().at(kernel).shared = value;
  return 0;
}

int cudaMemsetAsync(void* memory, int value, size_t bytes, void*) {
  std::memset(memory, value, bytes);
  return 0;
}

int cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void** parameters, size_t shared,
                     void* stream) {
  return launch(kernel, grid, block, parameters, shared, 0, stream);
}

// Two processors, of which each has registers for two blocks.
int cudaLaunchCooperativeKernel(const void* kernel, Dim3 grid, Dim3 block, void** parameters,
                                size_t shared, void* stream) {
  return grid.x > 4 ? kTooLarge : launch(kernel, grid, block, parameters, shared, 1, stream);
}

void __cudaRegisterFunction(void**, const char* kernel, char* entry, const char*, int, void*, void*,
                            void*, void*, int*) {
  kernels()[kernel].entry = entry;
}

// What start-up code and the stubs of <<<...>>>, which is not used, are linked with.
void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
int __cudaPopCallConfiguration(Dim3*, Dim3*, size_t*, void*) { return kInvalidValue; }
int __cudaGetKernel(void**, const void*) { return kInvalidValue; }
int __cudaLaunchKernel(void*, Dim3, Dim3, void**, size_t, void*) { return kInvalidValue; }

int aoti_torch_create_device_guard(int32_t, void** guard) {
  *guard = nullptr;
  return 0;
}
int aoti_torch_delete_device_guard(void*) { return 0; }
int aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = reinterpret_cast<void*>(0x5eed);
  return 0;
}

}  // extern "C"
