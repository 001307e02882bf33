// Owned, aligned memory for a worker; grows, never shrinks.
#pragma once

#include <cstdlib>
#include <new>

#include "huge_pages.h"
#include "isa.h"

SPARSEDIS_BEGIN

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) { reserve(size); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Room for `size` elements; what was there is lost when it grows.
  T* reserve(int64_t size) {
    if (size > capacity_) {
      const size_t bytes = (static_cast<size_t>(size) * sizeof(T) + 63) / 64 * 64;
      void* grown = std::aligned_alloc(64, bytes);
      if (grown == nullptr) throw std::bad_alloc();
      prefer_huge_pages(grown, bytes);
      std::free(data_);
      data_ = static_cast<T*>(grown);
      capacity_ = size;
    }
    return data_;
  }

  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t capacity_ = 0;
};

SPARSEDIS_END
