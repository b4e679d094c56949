// The kernels of a BERT encoder over packed batches, all but the large matrix products.
//
// `cargo xtask kernels` compiles this file for each element type, and for compute capabilities 8.0 and 9.0, to
// `bert_f16_sm80.ptx` and so on. It includes nothing, so that NVRTC alone compiles it.
//
// A batch is packed: the tokens of its texts stand one after another without padding. A launch is made for a *bucket*,
// the most tokens that it can take; how many there are stands in memory, so that one CUDA graph serves every batch
// that fits. Two blocks of 32-bit words describe a batch. Both hold `capacity` tokens and texts, whatever the bucket:
//
//   input, in pinned host memory:  tokens, texts, 0, 0, ids[capacity], first[capacity], end[capacity],
//                                  starts[capacity + 1]
//   facts, in device memory:       tokens, texts, 0, 0, first[capacity], end[capacity], starts[capacity + 1]
//
// `first` and `end` bound, for each token, the tokens of its text. `starts` has the first token of each text, and the
// end of the last.

typedef unsigned int u32;
typedef unsigned short u16;

// --- element types -------------------------------------------------------------------------------------------------

struct F16 { u16 bits; };
struct BF16 { u16 bits; };

__device__ __forceinline__ float2 unpack(F16, u32 pair) {
    float2 v;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(v.x), "=f"(v.y) : "r"(pair));
    return v;
}
__device__ __forceinline__ float2 unpack(BF16, u32 pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
__device__ __forceinline__ u32 pack(F16, float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ u32 pack(BF16, float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Four consecutive elements as floats. Addresses are multiples of four elements.
template <class T> __device__ __forceinline__ float4 load4(const T* from) {
    uint2 bits = *reinterpret_cast<const uint2*>(from);
    float2 a = unpack(T(), bits.x), b = unpack(T(), bits.y);
    return make_float4(a.x, a.y, b.x, b.y);
}
template <> __device__ __forceinline__ float4 load4<float>(const float* from) {
    return *reinterpret_cast<const float4*>(from);
}
template <class T> __device__ __forceinline__ void store4(T* to, float4 v) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack(T(), v.x, v.y), pack(T(), v.z, v.w));
}
template <> __device__ __forceinline__ void store4<float>(float* to, float4 v) {
    *reinterpret_cast<float4*>(to) = v;
}

// --- overlap with the kernel before ---------------------------------------------------------------------------------

// From compute capability 9.0 on, a kernel may be launched while the one before it in the stream still runs. Each
// kernel lets its successor start at once, reads what no kernel writes (weights), and then waits for the end of its
// predecessor, which has waited for its own.
__device__ __forceinline__ void start_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// --- rows of a warp ------------------------------------------------------------------------------------------------

// The widest row: a lane holds four elements of each of these steps of 128.
constexpr int STEPS = 8;

__device__ __forceinline__ float warp_sum(float v) {
    for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(0xffffffffu, v, lanes);
    return v;
}

__device__ __forceinline__ u32 warp_max(u32 v) { return __reduce_max_sync(0xffffffffu, v); }

// Calls `f(step, column)` for each group of four columns that this lane has. The steps are unrolled, so that arrays
// that they index stay in registers.
template <class F> __device__ __forceinline__ void each4(int hidden, int lane, F f) {
    #pragma unroll
    for (int step = 0; step < STEPS; step++) {
        int column = step * 128 + lane * 4;
        if (column < hidden) f(step, column);
    }
}

template <class T> __device__ __forceinline__ void load_row(float4 (&row)[STEPS], const T* from, int hidden, int lane) {
    each4(hidden, lane, [&](int step, int column) { row[step] = load4(from + column); });
}

// Normalises a row to mean 0 and variance 1, then scales and shifts it. The variance is that of the values around
// their mean, in a second pass.
__device__ __forceinline__ void normalise(
    float4 (&row)[STEPS], const float* weight, const float* bias, int hidden, float epsilon, int lane
) {
    float sum = 0;
    each4(hidden, lane, [&](int step, int) { sum += row[step].x + row[step].y + row[step].z + row[step].w; });
    float mean = warp_sum(sum) / hidden;
    float squares = 0;
    each4(hidden, lane, [&](int step, int) {
        float4 v = row[step];
        v.x -= mean; v.y -= mean; v.z -= mean; v.w -= mean;
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        row[step] = v;
    });
    float scale = rsqrtf(warp_sum(squares) / hidden + epsilon);
    each4(hidden, lane, [&](int step, int column) {
        float4 w = load4(weight + column), b = load4(bias + column), v = row[step];
        row[step] = make_float4(
            v.x * scale * w.x + b.x, v.y * scale * w.y + b.y, v.z * scale * w.z + b.z, v.w * scale * w.w + b.w
        );
    });
}

// --- embedding -----------------------------------------------------------------------------------------------------

// Sums the word, position and type embeddings of each token, normalises the sum, and copies the facts of the batch to
// device memory. A block of 256 threads takes 32 tokens. What it reads from the host it reads at once, the number of
// tokens included, since each wait for the host costs a microsecond or more: so it reads past the last token, and
// bounds what it finds there. Tokens past the last get the bounds 0, that is, none.
template <class T> __device__ __forceinline__ void embed(
    const u32* input, u32* facts, u32 capacity, const T* words, const T* positions, const T* types,
    const float* weight, const float* bias, float epsilon, u32 hidden, T* out
) {
    __shared__ u32 ids[32], firsts[32];
    u32 begin = blockIdx.x * 32, thread = threadIdx.x, token = begin + thread;
    start_next();
    u32 id = 0, first = 0, end = 0, start = 0, text = blockIdx.x * 224 + thread - 32;
    bool has_token = thread < 32 && token < capacity, has_text = thread >= 32 && text <= capacity;
    if (has_token) {
        id = input[4 + token];
        first = input[4 + capacity + token];
        end = input[4 + 2 * capacity + token];
    }
    if (has_text) start = input[4 + 3 * capacity + text];
    u32 tokens = input[0], texts = input[1];
    wait_for_previous();
    if (thread == 0 && begin == 0) { facts[0] = tokens; facts[1] = texts; }
    if (has_text && text <= texts) facts[4 + 2 * capacity + text] = start;
    if (has_token) {
        bool there = token < tokens;
        ids[thread] = id;
        firsts[thread] = first;
        facts[4 + token] = there ? first : 0;
        facts[4 + capacity + token] = there ? end : 0;
    }
    __syncthreads();
    int warp = thread / 32, lane = thread % 32;
    for (u32 i = warp; i < 32 && begin + i < tokens; i += 8) {
        float4 row[STEPS];
        const T* word = words + size_t(ids[i]) * hidden;
        const T* position = positions + size_t(begin + i - firsts[i]) * hidden;
        each4(hidden, lane, [&](int step, int column) {
            float4 a = load4(word + column), b = load4(position + column), c = load4(types + column);
            row[step] = make_float4(a.x + b.x + c.x, a.y + b.y + c.y, a.z + b.z + c.z, a.w + b.w + c.w);
        });
        normalise(row, weight, bias, hidden, epsilon, lane);
        T* to = out + size_t(begin + i) * hidden;
        each4(hidden, lane, [&](int step, int column) { store4(to + column, row[step]); });
    }
}

// --- normalising rows ----------------------------------------------------------------------------------------------

// Normalises each row in place; a warp takes a row, a block of 256 threads eight.
template <class T> __device__ __forceinline__ void layer_norm(
    const u32* facts, T* rows, const float* weight, const float* bias, float epsilon, u32 hidden
) {
    start_next();
    wait_for_previous();
    u32 token = blockIdx.x * 8 + threadIdx.x / 32;
    if (token >= facts[0]) return;
    int lane = threadIdx.x % 32;
    float4 row[STEPS];
    T* at = rows + size_t(token) * hidden;
    load_row(row, at, hidden, lane);
    normalise(row, weight, bias, hidden, epsilon, lane);
    each4(hidden, lane, [&](int step, int column) { store4(at + column, row[step]); });
}

// --- bias and GELU -------------------------------------------------------------------------------------------------

// The exact GELU, by the error function. (The epilogue of cuBLASLt has the approximation by tanh.)
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

// Adds a bias to each row and applies GELU, in place. A block of 128 threads takes 512 columns of eight rows.
template <class T> __device__ __forceinline__ void bias_gelu(const u32* facts, T* rows, const float* bias, u32 columns) {
    start_next();
    u32 column = (blockIdx.y * 128 + threadIdx.x) * 4;
    if (column >= columns) return;
    float4 b = load4(bias + column);
    wait_for_previous();
    u32 tokens = facts[0];
    #pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 token = blockIdx.x * 8 + i;
        if (token < tokens) {
            T* at = rows + size_t(token) * columns + column;
            float4 v = load4(at);
            store4(at, make_float4(gelu(v.x + b.x), gelu(v.y + b.y), gelu(v.z + b.z), gelu(v.w + b.w)));
        }
    }
}

// --- pooling -------------------------------------------------------------------------------------------------------

// Writes a text's vector, in float: the mean of its tokens' rows, or its first token's row, scaled to length 1 if
// asked. The rows are normalised first if `weight` is given. Where a value is not finite, the vector's first value is
// not a number. A block of 256 threads takes a text.
template <class T> __device__ __forceinline__ void pool(
    const u32* facts, u32 capacity, const T* rows, const float* weight, const float* bias, float epsilon, u32 hidden,
    u32 first_only, u32 unit_length, float* out
) {
    __shared__ float sums[8][STEPS * 128];
    __shared__ float squares[8];
    start_next();
    wait_for_previous();
    u32 text = blockIdx.x;
    if (text >= facts[1]) return;
    const u32* starts = facts + 4 + 2 * capacity;
    u32 start = starts[text], end = first_only ? start + 1 : starts[text + 1];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float4 sum[STEPS];
    each4(hidden, lane, [&](int step, int) { sum[step] = make_float4(0, 0, 0, 0); });
    for (u32 token = start + warp; token < end; token += 8) {
        float4 row[STEPS];
        load_row(row, rows + size_t(token) * hidden, hidden, lane);
        if (weight) normalise(row, weight, bias, hidden, epsilon, lane);
        each4(hidden, lane, [&](int step, int) {
            sum[step].x += row[step].x; sum[step].y += row[step].y; sum[step].z += row[step].z; sum[step].w += row[step].w;
        });
    }
    each4(hidden, lane, [&](int step, int column) { store4(&sums[warp][column], sum[step]); });
    __syncthreads();
    float scale = 1.0f / float(end - start);
    float mine[STEPS * 128 / 256], square = 0;
    #pragma unroll
    for (int i = 0; i < STEPS * 128 / 256; i++) {
        u32 column = i * 256 + threadIdx.x;
        mine[i] = 0;
        if (column < hidden) {
            for (int w = 0; w < 8; w++) mine[i] += sums[w][column];
            mine[i] *= scale;
            square += mine[i] * mine[i];
        }
    }
    square = warp_sum(square);
    if (lane == 0) squares[warp] = square;
    __syncthreads();
    float total = 0;
    for (int w = 0; w < 8; w++) total += squares[w];
    // As PyTorch's `normalize`: a vector of length 0 stays 0.
    float factor = unit_length ? 1.0f / fmaxf(sqrtf(total), 1e-12f) : 1.0f;
    bool finite = total <= 3.4028234e38f;
    #pragma unroll
    for (int i = 0; i < STEPS * 128 / 256; i++) {
        u32 column = i * 256 + threadIdx.x;
        if (column < hidden) {
            float v = mine[i] * factor;
            out[size_t(text) * hidden + column] = finite || column > 0 ? v : __int_as_float(0x7fffffff);
        }
    }
}

// --- tensor cores --------------------------------------------------------------------------------------------------

// c += a b for a of 16 x 16, b of 16 x 8.
__device__ __forceinline__ void mma(F16, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma(BF16, float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }
__device__ __forceinline__ void ldmatrix(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
// Copies 16 bytes to shared memory without waiting, or zeros where `there` is false.
__device__ __forceinline__ void copy16(u32 to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

// --- attention -----------------------------------------------------------------------------------------------------

// Attention within each text, for one head: a block of four warps takes 64 consecutive tokens of the batch as queries,
// a warp 16. They may belong to several texts, so the keys run from the first token of the first text to the end of
// the last, and each query sees those of its own text. Work between texts is skipped by groups of 8 or 16 keys.
// Keys and values come through shared memory, 32 at a time, the next ones while the present are used; softmax is
// computed on the way, from a running maximum and sum (as in "FlashAttention", Dao and others, 2022).
template <class T, int D> __device__ __forceinline__ void attention(
    const u32* facts, u32 capacity, const T* qkv, u32 hidden, float scale, T* out
) {
    constexpr int KEYS = 32, STRIDE = D + 8; // the padding keeps rows in different banks
    __shared__ __align__(16) u16 keys[2][KEYS * STRIDE], values[2][KEYS * STRIDE];
    start_next();
    u32 query0 = blockIdx.x * 64, head = blockIdx.y;
    const u32* first = facts + 4 + query0;
    const u32* end = first + capacity;
    u32 row_length = 3 * hidden;
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    // Tokens past the last have no keys: their bounds are 0.
    wait_for_previous();
    u32 begin = first[0], end_low = end[lane], end_high = end[lane + 32];
    u32 stop = warp_max(max(end_low, end_high));
    u32 mine = warp < 2 ? end_low : end_high;
    u32 warp_begin = first[warp * 16], warp_stop = warp_max(lane / 16 == warp % 2 ? mine : 0);
    bool busy = warp_stop > 0;

    const T* q_at = qkv + head * D;
    const u16* k_at = reinterpret_cast<const u16*>(qkv + hidden + head * D);
    const u16* v_at = reinterpret_cast<const u16*>(qkv + 2 * hidden + head * D);
    auto fetch = [&](u32 from, int buffer) {
        constexpr int PIECES = D / 8;
        #pragma unroll
        for (int i = thread; i < KEYS * PIECES; i += 128) {
            u32 key = i / PIECES, piece = i % PIECES * 8, token = from + key;
            bool there = token < stop;
            size_t offset = size_t(there ? token : begin) * row_length + piece;
            copy16(shared_address(&keys[buffer][key * STRIDE + piece]), k_at + offset, there);
            copy16(shared_address(&values[buffer][key * STRIDE + piece]), v_at + offset, there);
        }
        commit_copies();
    };
    fetch(begin, 0);

    u32 row[2] = {u32(warp * 16 + lane / 4), u32(warp * 16 + lane / 4 + 8)}, row_first[2], row_end[2];
    u32 q[D / 16][4];
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        row_first[half] = first[row[half]];
        row_end[half] = end[row[half]];
        const u32* at = reinterpret_cast<const u32*>(q_at + size_t(query0 + row[half]) * row_length);
        #pragma unroll
        for (int step = 0; step < D / 16; step++) {
            q[step][half] = at[step * 8 + lane % 4];
            q[step][half + 2] = at[step * 8 + lane % 4 + 4];
        }
    }
    float acc[D / 8][4] = {}, maximum[2] = {-1e30f, -1e30f}, sum[2] = {0, 0};
    scale *= 1.4426950408889634f; // exp(x) is computed as exp2(x log2(e))

    int buffer = 0;
    for (u32 from = begin; from < stop; from += KEYS, buffer ^= 1) {
        if (from + KEYS < stop) {
            fetch(from + KEYS, buffer ^ 1);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        if (busy && from < warp_stop && from + KEYS > warp_begin) {
            float s[KEYS / 8][4];
            float top[2] = {maximum[0], maximum[1]};
            #pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                u32 key0 = from + n * 8;
                s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
                if (key0 >= warp_stop || key0 + 8 <= warp_begin) continue;
                #pragma unroll
                for (int part = 0; part < D / 32; part++) {
                    u32 k[4];
                    ldmatrix(k, shared_address(&keys[buffer][(n * 8 + lane % 8) * STRIDE + part * 32 + lane / 8 * 8]));
                    mma(T(), s[n], q[part * 2], k[0], k[1]);
                    mma(T(), s[n], q[part * 2 + 1], k[2], k[3]);
                }
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    u32 key = key0 + lane % 4 * 2 + i % 2;
                    bool seen = key >= row_first[i / 2] && key < row_end[i / 2];
                    s[n][i] = seen ? s[n][i] * scale : -1e30f;
                    top[i / 2] = fmaxf(top[i / 2], s[n][i]);
                }
            }
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 1));
                top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 2));
                // A row that has seen no key yet has the maximum -1e30: keys that it does not see must not count.
                float shrink = exp2f(maximum[half] - top[half]);
                maximum[half] = top[half];
                top[half] = fmaxf(top[half], -1e29f);
                sum[half] *= shrink;
                #pragma unroll
                for (int n = 0; n < D / 8; n++) { acc[n][half * 2] *= shrink; acc[n][half * 2 + 1] *= shrink; }
            }
            #pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                u32 key0 = from + n * 8;
                if (key0 >= warp_stop || key0 + 8 <= warp_begin) continue; // and s is 0
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    s[n][i] = exp2f(s[n][i] - top[i / 2]);
                    sum[i / 2] += s[n][i];
                }
            }
            #pragma unroll
            for (int group = 0; group < KEYS / 16; group++) {
                u32 key0 = from + group * 16;
                if (key0 < warp_stop && key0 + 16 > warp_begin) {
                    u32 p[4] = {
                        pack(T(), s[group * 2][0], s[group * 2][1]), pack(T(), s[group * 2][2], s[group * 2][3]),
                        pack(T(), s[group * 2 + 1][0], s[group * 2 + 1][1]), pack(T(), s[group * 2 + 1][2], s[group * 2 + 1][3]),
                    };
                    #pragma unroll
                    for (int n = 0; n < D / 16; n++) {
                        u32 v[4];
                        ldmatrix_transposed(v, shared_address(
                            &values[buffer][(group * 16 + lane % 16) * STRIDE + n * 16 + lane / 16 * 8]));
                        mma(T(), acc[n * 2], p, v[0], v[1]);
                        mma(T(), acc[n * 2 + 1], p, v[2], v[3]);
                    }
                }
            }
        }
        __syncthreads();
    }
    if (!busy) return;
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        if (row_end[half] > 0) {
            float inverse = 1.0f / sum[half];
            u32* to = reinterpret_cast<u32*>(out + size_t(query0 + row[half]) * hidden + head * D);
            #pragma unroll
            for (int n = 0; n < D / 8; n++)
                to[n * 4 + lane % 4] = pack(T(), acc[n][half * 2] * inverse, acc[n][half * 2 + 1] * inverse);
        }
    }
}

// The same in float, without tensor cores: a warp takes a query of a head, 32 keys at a time. A block has four warps.
template <int D> __device__ __forceinline__ void attention_float(
    const u32* facts, u32 capacity, const float* qkv, u32 hidden, float scale, float* out
) {
    __shared__ float queries[4][D];
    start_next();
    wait_for_previous();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 token = blockIdx.x * 4 + warp, head = blockIdx.y;
    if (token >= facts[0]) return;
    u32 begin = facts[4 + token], stop = facts[4 + capacity + token], row_length = 3 * hidden;
    const float* at = qkv + head * D;
    for (int d = lane; d < D; d += 32) queries[warp][d] = at[size_t(token) * row_length + d] * scale;
    __syncwarp();
    float acc[D / 32] = {}, maximum = -1e30f, sum = 0;
    for (u32 from = begin; from < stop; from += 32) {
        float s = -1e30f;
        if (from + lane < stop) {
            const float* key = at + size_t(from + lane) * row_length + hidden;
            s = 0;
            for (int d = 0; d < D; d += 4) {
                float4 k = load4(key + d);
                s += k.x * queries[warp][d] + k.y * queries[warp][d + 1] + k.z * queries[warp][d + 2] + k.w * queries[warp][d + 3];
            }
        }
        float top = s;
        for (int lanes = 16; lanes > 0; lanes /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, lanes));
        top = fmaxf(top, maximum);
        float shrink = expf(maximum - top), p = from + lane < stop ? expf(s - top) : 0.0f;
        maximum = top;
        sum = sum * shrink + warp_sum(p);
        #pragma unroll
        for (int i = 0; i < D / 32; i++) acc[i] *= shrink;
        for (int key = 0; key < 32 && from + key < stop; key++) {
            float weight = __shfl_sync(0xffffffffu, p, key);
            const float* value = at + size_t(from + key) * row_length + 2 * hidden;
            #pragma unroll
            for (int i = 0; i < D / 32; i++) acc[i] += weight * value[i * 32 + lane];
        }
    }
    #pragma unroll
    for (int i = 0; i < D / 32; i++) out[size_t(token) * hidden + head * D + i * 32 + lane] = acc[i] / sum;
}

// --- products for few tokens ---------------------------------------------------------------------------------------

__device__ __forceinline__ u32 multiply(F16, u32 a, u32 b) {
    u32 c;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(c) : "r"(a), "r"(b), "r"(0x80008000u)); // + -0.0
    return c;
}
__device__ __forceinline__ u32 multiply(BF16, u32 a, u32 b) {
    u32 c;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(c) : "r"(a), "r"(b), "r"(0x80008000u));
    return c;
}
template <class T> __device__ __forceinline__ uint4 multiply8(uint4 a, uint4 b) {
    return make_uint4(multiply(T(), a.x, b.x), multiply(T(), a.y, b.y), multiply(T(), a.z, b.z), multiply(T(), a.w, b.w));
}
// Adds eight elements, and their squares, to a row's sums.
template <class T> __device__ __forceinline__ void add_moments(float2& moments, uint4 eight) {
    u32 pairs[4] = {eight.x, eight.y, eight.z, eight.w};
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 v = unpack(T(), pairs[i]);
        moments.x += v.x + v.y;
        moments.y += v.x * v.x + v.y * v.y;
    }
}
__device__ __forceinline__ float2 sum_of_quad(float2 v) {
    for (int lanes = 1; lanes < 4; lanes *= 2) {
        v.x += __shfl_xor_sync(0xffffffffu, v.x, lanes);
        v.y += __shfl_xor_sync(0xffffffffu, v.y, lanes);
    }
    return v;
}

// out = gelu?(norm?(a) w' + bias) + residual, where w is outputs x inputs: the product for so few tokens that reading w
// is what takes time, with all around it fused.
//
// Normalising is linear in the row once its mean and deviation are known, so the product need not wait for them:
//   norm(a) w' + b = (sum of a norm_weight w - mean w_sums) / deviation + bias,
// with w_sums = sum of norm_weight w, and bias = b + sum of norm_bias w, both made when the weights are loaded. Block 0
// writes each row's mean and the inverse of its deviation to `moments_out`. The residual is normalised by such moments
// on the way, if they are given.
//
// A block takes 16 tokens and COLUMNS * 8 outputs. Its warps share the inputs among them, in groups of 32, and add up
// their sums in shared memory. Of a group, a lane holds eight neighbours of each row: the sum over inputs does not
// depend on their order, so one load of 16 bytes fills the operands of two products of tensor cores. Rows past the last
// token mean nothing and disturb none: the buffers have room for them.
// Dynamic shared memory: warps * 16 * (COLUMNS * 8 + 2) floats, for 4 warps or more.
template <class T, int COLUMNS> __device__ __forceinline__ void linear(
    const T* a, const T* norm_weight, const float* w_sums, float epsilon, float2* moments_out, const T* w,
    const float* bias, const T* residual, const float2* residual_moments, const float* residual_weight,
    const float* residual_bias, u32 with_gelu, u32 inputs, u32 outputs, T* out
) {
    extern __shared__ __align__(16) float shared[];
    constexpr int WIDTH = COLUMNS * 8, SIZE = 16 * WIDTH;
    constexpr int PAIRS = (SIZE / 2 + 127) / 128; // of outputs for each thread
    u32 row0 = blockIdx.y * 16, column0 = blockIdx.x * WIDTH;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    u32 share = inputs / warps, input0 = warp * share + lane % 4 * 8;

    const uint4* w_at = reinterpret_cast<const uint4*>(w + size_t(column0 + lane / 4) * inputs + input0);
    const uint4* a_at = reinterpret_cast<const uint4*>(a + size_t(row0 + lane / 4) * inputs + input0);
    const uint4* g_at = reinterpret_cast<const uint4*>(norm_weight + input0);
    u32 eight_rows = inputs; // in pieces of eight elements
    uint4 next_b[COLUMNS], next_upper, next_lower, next_g = make_uint4(0, 0, 0, 0);
    auto fetch_weights = [&](u32 k) {
        #pragma unroll
        for (int n = 0; n < COLUMNS; n++) next_b[n] = __ldg(w_at + n * eight_rows + k / 8);
        if (norm_weight) next_g = __ldg(g_at + k / 8);
    };
    auto fetch_rows = [&](u32 k) {
        next_upper = a_at[k / 8];
        next_lower = a_at[eight_rows + k / 8];
    };
    start_next();
    fetch_weights(0);
    wait_for_previous();
    fetch_rows(0);
    // What the end needs is on its way, too.
    float2 bias_of[PAIRS], sums_of[PAIRS], moments_of[PAIRS], weight_of[PAIRS], shift_of[PAIRS];
    u32 residual_of[PAIRS];
    #pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        int i = (p * int(blockDim.x) + int(threadIdx.x)) * 2;
        if (i >= SIZE) continue;
        u32 token = row0 + i / WIDTH, column = column0 + i % WIDTH;
        bias_of[p] = *reinterpret_cast<const float2*>(bias + column);
        if (norm_weight) sums_of[p] = *reinterpret_cast<const float2*>(w_sums + column);
        if (residual) residual_of[p] = *reinterpret_cast<const u32*>(residual + size_t(token) * outputs + column);
        if (residual_moments) {
            moments_of[p] = residual_moments[token];
            weight_of[p] = *reinterpret_cast<const float2*>(residual_weight + column);
            shift_of[p] = *reinterpret_cast<const float2*>(residual_bias + column);
        }
    }

    float acc[COLUMNS][4] = {};
    float2 upper_moments = make_float2(0, 0), lower_moments = make_float2(0, 0);
    for (u32 k = 0; k < share; k += 32) {
        uint4 b[COLUMNS], upper = next_upper, lower = next_lower, g = next_g;
        #pragma unroll
        for (int n = 0; n < COLUMNS; n++) b[n] = next_b[n];
        if (k + 32 < share) {
            fetch_weights(k + 32);
            fetch_rows(k + 32);
        }
        if (norm_weight) {
            add_moments<T>(upper_moments, upper);
            add_moments<T>(lower_moments, lower);
            upper = multiply8<T>(upper, g);
            lower = multiply8<T>(lower, g);
        }
        u32 even[4] = {upper.x, lower.x, upper.y, lower.y}, odd[4] = {upper.z, lower.z, upper.w, lower.w};
        #pragma unroll
        for (int n = 0; n < COLUMNS; n++) {
            mma(T(), acc[n], even, b[n].x, b[n].y);
            mma(T(), acc[n], odd, b[n].z, b[n].w);
        }
    }

    float2* moments = reinterpret_cast<float2*>(shared + warps * SIZE);
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = half * 8 + lane / 4;
        #pragma unroll
        for (int n = 0; n < COLUMNS; n++)
            *reinterpret_cast<float2*>(shared + warp * SIZE + row * WIDTH + n * 8 + lane % 4 * 2) =
                make_float2(acc[n][half * 2], acc[n][half * 2 + 1]);
        if (norm_weight) {
            float2 total = sum_of_quad(half ? lower_moments : upper_moments);
            if (lane % 4 == 0) moments[warp * 16 + row] = total;
        }
    }
    __syncthreads();
    #pragma unroll
    for (int p = 0; p < PAIRS; p++) {
        int i = (p * int(blockDim.x) + int(threadIdx.x)) * 2;
        if (i >= SIZE) continue;
        u32 row = i / WIDTH, token = row0 + row, column = column0 + i % WIDTH;
        float2 v = make_float2(0, 0), total = make_float2(0, 0);
        for (int other = 0; other < warps; other++) {
            float2 part = *reinterpret_cast<const float2*>(shared + other * SIZE + i);
            v.x += part.x;
            v.y += part.y;
            if (norm_weight) {
                float2 more = moments[other * 16 + row];
                total.x += more.x;
                total.y += more.y;
            }
        }
        if (norm_weight) {
            float mean = total.x / inputs;
            float inverse = rsqrtf(fmaxf(total.y / inputs - mean * mean, 0.0f) + epsilon);
            v.x = (v.x - mean * sums_of[p].x) * inverse;
            v.y = (v.y - mean * sums_of[p].y) * inverse;
            if (column == 0) moments_out[token] = make_float2(mean, inverse);
        }
        v.x += bias_of[p].x;
        v.y += bias_of[p].y;
        if (with_gelu) v = make_float2(gelu(v.x), gelu(v.y));
        if (residual) {
            float2 r = unpack(T(), residual_of[p]);
            if (residual_moments) {
                r.x = (r.x - moments_of[p].x) * moments_of[p].y * weight_of[p].x + shift_of[p].x;
                r.y = (r.y - moments_of[p].x) * moments_of[p].y * weight_of[p].y + shift_of[p].y;
            }
            v.x += r.x;
            v.y += r.y;
        }
        *reinterpret_cast<u32*>(out + size_t(token) * outputs + column) = pack(T(), v.x, v.y);
    }
}

// --- entry points --------------------------------------------------------------------------------------------------

#define KERNELS_OF(T, NAME)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) cuda_green_embed_##NAME(                                         \
        const u32* input, u32* facts, u32 capacity, const T* words, const T* positions, const T* types,                \
        const float* weight, const float* bias, float epsilon, u32 hidden, T* out) {                                   \
        embed<T>(input, facts, capacity, words, positions, types, weight, bias, epsilon, hidden, out);                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) cuda_green_layer_norm_##NAME(                                    \
        const u32* facts, T* rows, const float* weight, const float* bias, float epsilon, u32 hidden) {                \
        layer_norm<T>(facts, rows, weight, bias, epsilon, hidden);                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128) cuda_green_bias_gelu_##NAME(                                     \
        const u32* facts, T* rows, const float* bias, u32 columns) {                                                   \
        bias_gelu<T>(facts, rows, bias, columns);                                                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) cuda_green_pool_##NAME(                                          \
        const u32* facts, u32 capacity, const T* rows, const float* weight, const float* bias, float epsilon,          \
        u32 hidden, u32 first_only, u32 unit_length, float* out) {                                                     \
        pool<T>(facts, capacity, rows, weight, bias, epsilon, hidden, first_only, unit_length, out);                   \
    }

#define ATTENTION_OF(T, NAME, D)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, D == 32 ? 7 : 5) cuda_green_attention_##D##_##NAME(              \
        const u32* facts, u32 capacity, const T* qkv, u32 hidden, float scale, T* out) {                               \
        attention<T, D>(facts, capacity, qkv, hidden, scale, out);                                                     \
    }

#define LINEAR_OF(T, NAME, COLUMNS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(512) cuda_green_linear_##COLUMNS##_##NAME(                            \
        const T* a, const T* norm_weight, const float* w_sums, float epsilon, float2* moments_out, const T* w,         \
        const float* bias, const T* residual, const float2* residual_moments, const float* residual_weight,            \
        const float* residual_bias, u32 with_gelu, u32 inputs, u32 outputs, T* out) {                                  \
        linear<T, COLUMNS>(a, norm_weight, w_sums, epsilon, moments_out, w, bias, residual, residual_moments,          \
            residual_weight, residual_bias, with_gelu, inputs, outputs, out);                                          \
    }

#if defined(ELEMENT_F32)
KERNELS_OF(float, f32)
extern "C" __global__ void __launch_bounds__(128) cuda_green_attention_32_f32(
    const u32* facts, u32 capacity, const float* qkv, u32 hidden, float scale, float* out) {
    attention_float<32>(facts, capacity, qkv, hidden, scale, out);
}
extern "C" __global__ void __launch_bounds__(128) cuda_green_attention_64_f32(
    const u32* facts, u32 capacity, const float* qkv, u32 hidden, float scale, float* out) {
    attention_float<64>(facts, capacity, qkv, hidden, scale, out);
}
#else
#if defined(ELEMENT_F16)
#define OF_ELEMENT(MACRO, ...) MACRO(F16, f16, ##__VA_ARGS__)
#else
#define OF_ELEMENT(MACRO, ...) MACRO(BF16, bf16, ##__VA_ARGS__)
#endif
OF_ELEMENT(KERNELS_OF)
OF_ELEMENT(ATTENTION_OF, 32)
OF_ELEMENT(ATTENTION_OF, 64)
OF_ELEMENT(LINEAR_OF, 2)
OF_ELEMENT(LINEAR_OF, 3)
#endif
