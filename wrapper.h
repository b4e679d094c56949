/* The one header that all bindings come from. It takes in the driver API and nothing else, so that
 * the same file serves every CUDA header set: each is found through the include path. */
#include <cuda.h>
