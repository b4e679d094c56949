//! The device side: a header in CUDA C++.

/// The text of `cuda_green_queue.cuh`, the device side of a queue: one header without includes, in CUDA C++17, for NVRTC
/// and nvcc, `sm_70` and later.
///
/// Hand it to NVRTC as a header named `cuda_green_queue.cuh`, or write it to a file of that name in a folder that nvcc looks
/// in. It may also stand before the source of a kernel, in place of the `#include`, as below; a kernel that has the line all
/// the same needs the file. Its own comments are its documentation. As a file it lies in this crate at
/// `src/device/cuda_green_queue.cuh`.
///
/// ```
/// let kernel = r#"
/// struct Square {
///     static constexpr unsigned short method = 1;
///     using Output = unsigned int;
///     unsigned int number;
/// };
/// extern "C" __global__ void ask(cuda_green::Queue queue, unsigned int* out) {
///     auto future = queue.call(Square{threadIdx.x}, cuda_green::MILLISECOND);
///     future.wait(&out[threadIdx.x], cuda_green::MILLISECOND);
/// }
/// "#;
/// let source = [cuda_green_queue::HEADER, kernel].concat();
/// assert!(source.contains("namespace cuda_green"));
/// ```
pub const HEADER: &str = include_str!("device/cuda_green_queue.cuh");

#[cfg(test)]
mod probe;
