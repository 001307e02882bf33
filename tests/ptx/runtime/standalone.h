// main() of the program that runs one launch under a sanitizer: reads the launch and the arrays
// from one file, writes the result and the arrays to another. The layout is written by execute.py.
#pragma once

namespace ptx {

struct FileReader {
  FILE* file;
  void bytes(void* target, size_t count) {
    if (fread(target, 1, count, file) != count) {
      fprintf(stderr, "launch file is too short\n");
      exit(2);
    }
  }
  template <class T>
  T value() {
    T result;
    bytes(&result, sizeof result);
    return result;
  }
  std::vector<char> block() {
    std::vector<char> data(value<u64>());
    bytes(data.data(), data.size());
    return data;
  }
};

// Each array is its own allocation, so that AddressSanitizer guards its ends.
inline std::vector<ArrayRange> read_arrays(FileReader& in) {
  std::vector<ArrayRange> arrays(in.value<u64>());
  for (ArrayRange& array : arrays) {
    array.bytes = in.value<u64>();
    array.begin = (u64)malloc(array.bytes);
    in.bytes((void*)array.begin, array.bytes);
  }
  return arrays;
}

inline void patch_pointers(FileReader& in, std::vector<char>& parameters,
                           const std::vector<ArrayRange>& arrays) {
  u64 count = in.value<u64>();
  for (u64 i = 0; i < count; i++) {
    u64 parameter_offset = in.value<u64>();
    u64 array = in.value<u64>();
    u64 address = arrays[array].begin + in.value<u64>();
    memcpy(parameters.data() + parameter_offset, &address, sizeof address);
  }
}

inline int standalone_main(const char* input, const char* output) {
  FileReader in{fopen(input, "rb")};
  if (!in.file) return 2;
  LaunchRequest request = in.value<LaunchRequest>();
  std::vector<char> entry = in.block();
  entry.push_back(0);
  std::vector<char> parameters = in.block();
  std::vector<ArrayRange> arrays = read_arrays(in);
  patch_pointers(in, parameters, arrays);
  fclose(in.file);
  request.entry = entry.data();
  request.parameters = parameters.data();
  request.arrays = arrays.data();
  request.array_count = (u32)arrays.size();
  Result result;
  launch(request, &result);
  FILE* out = fopen(output, "wb");
  if (!out) return 2;
  fwrite(&result, sizeof result, 1, out);
  for (const ArrayRange& array : arrays) fwrite((void*)array.begin, 1, array.bytes, out);
  fclose(out);
  return 0;
}

}  // namespace ptx

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  return ptx::standalone_main(arguments[1], arguments[2]);
}
