#include "cuda_green_queue.cuh"
using Square = cuda_green::NumberedTask<7, unsigned long long, unsigned long long>;

extern "C" __global__ void squares(cuda_green::Queue queue, unsigned long long *results) {
    auto future = queue.call(Square{threadIdx.x}, cuda_green::SECOND);  // waits for room if it must
    future.wait(&results[threadIdx.x], cuda_green::SECOND);             // waits for the answer
}
