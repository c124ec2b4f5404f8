// A step of the whole model for a few tokens in one call: torch would start some hundred operations for it.
//
// The weights are those of 08_inference/fused_model.py, the keys and values lie in the blocks of
// paged_attention.py. Rows are tokens of any sequences: within a layer all keys and values are stored first,
// then each row looks back as far as its own position, so that decoding, chunks of prompts and any mix of
// them are one loop. decode_step.py compiles this file at first use and calls it. One thread: meant for
// models that fit into the processor's cache, whose tokens wait for the start of operations, not for memory.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#define INLINE inline __attribute__((always_inline))

template <class T> struct Step {
    int64_t rows, layers, C, H, K, D, F, block, n_blocks, most_blocks, qk_norm;
    double eps;
    const T *embedding, *rotation;                 // (V, C), (max_len, D / 2, 2): cos and sin
    const T *const *weights;                       // five a layer: qkv, gain, o, gate_up, down
    T *keys, *values;                              // (layers, n_blocks, K, block, D)
    const int64_t *ids, *positions, *tables;       // (rows), (rows), (rows, most_blocks)
    T *x;                                          // (rows, C): the result
};

template <class T> struct Vector {                 // 32 bytes of numbers: one register of AVX2
    typedef T type __attribute__((vector_size(32)));
    static const int64_t lanes = 32 / sizeof(T);
};

template <class T> static INLINE typename Vector<T>::type load(const T *from) {
    typename Vector<T>::type value;
    memcpy(&value, from, sizeof value);            // one load, aligned or not
    return value;
}

// R rows of W (.., n) times V vectors x (V, n), added to y (V, rows): R * V sums grow side by side, because
// each addition waits for the one before, and a row of W is read once for all V.
template <int R, int V, class T>
static INLINE void tile(const T *W, const T *x, T *y, int64_t rows, int64_t n) {
    typename Vector<T>::type sum[R][V] = {};
    int64_t i = 0;
    for (; i + Vector<T>::lanes <= n; i += Vector<T>::lanes)
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sum[r][v] += load(W + r * n + i) * load(x + v * n + i);
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) {
            T total = 0;
            for (int lane = 0; lane < Vector<T>::lanes; lane++) total += sum[r][v][lane];
            for (int64_t j = i; j < n; j++) total += W[r * n + j] * x[v * n + j];
            y[v * rows + r] += total;
        }
}

template <int V, class T>
static INLINE void some_vectors(const T *W, const T *x, T *y, int64_t rows, int64_t n) {
    const int R = V == 1 ? 4 : 2;
    int64_t r = 0;
    for (; r + R <= rows; r += R) tile<R, V>(W + r * n, x, y + r, rows, n);
    for (; r < rows; r++) tile<1, V>(W + r * n, x, y + r, rows, n);
}

// y (vectors, rows) += x (vectors, n) W^T, W (rows, n).
template <class T>
static INLINE void product(const T *W, const T *x, T *y, int64_t vectors, int64_t rows, int64_t n) {
    int64_t v = 0;
    for (; v + 4 <= vectors; v += 4) some_vectors<4>(W, x + v * n, y + v * rows, rows, n);
    for (; v < vectors; v++) some_vectors<1>(W, x + v * n, y + v * rows, rows, n);
}

// to = x / sqrt(mean(x^2) + eps), n numbers.
template <class T> static INLINE void normalize(const T *x, T *to, int64_t n, double eps) {
    T squares = 0;
    tile<1, 1>(x, x, &squares, 1, n);
    T scale = 1 / std::sqrt(squares / n + (T)eps);
    for (int64_t i = 0; i < n; i++) to[i] = x[i] * scale;
}

// One head of a query or key (D): its norm, its gain, and each pair turned by the angle of its position.
template <class T> static INLINE void turn(const Step<T> &s, T *head, const T *gain, int64_t position) {
    if (s.qk_norm) normalize(head, head, s.D, s.eps);
    const T *angle = s.rotation + position * s.D;
    for (int64_t i = 0; i < s.D; i += 2) {
        T re = head[i] * gain[i], im = head[i + 1] * gain[i + 1];
        head[i] = re * angle[i] - im * angle[i + 1];
        head[i + 1] = re * angle[i + 1] + im * angle[i];
    }
}

// Where token `position` of a row is kept, for key-value head g of a layer: the offset of D numbers.
template <class T>
static INLINE int64_t place(const Step<T> &s, int64_t layer, int64_t row, int64_t g, int64_t position) {
    int64_t block = s.tables[row * s.most_blocks + position / s.block];
    return (((layer * s.n_blocks + block) * s.K + g) * s.block + position % s.block) * s.D;
}

// out (D) = softmax(q keys^T) values over tokens 0 to the row's position; q comes scaled.
template <class T>
static INLINE void attend(const Step<T> &s, int64_t layer, int64_t row, int64_t g, const T *q, T *out,
                          T *weights) {
    int64_t end = s.positions[row] + 1;
    T most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < end; j++) {
        weights[j] = 0;
        tile<1, 1>(s.keys + place(s, layer, row, g, j), q, weights + j, 1, s.D);
        most = std::fmax(most, weights[j]);
    }
    for (int64_t j = 0; j < end; j++) sum += weights[j] = std::exp(weights[j] - most);
    for (int64_t d = 0; d < s.D; d++) out[d] = 0;
    for (int64_t j = 0; j < end; j++) {
        const T *value = s.values + place(s, layer, row, g, j), share = weights[j] / sum;
        for (int64_t d = 0; d < s.D; d++) out[d] += share * value[d];
    }
}

template <class T> static INLINE void whole_step(const Step<T> &s) {
    int64_t N = s.rows, C = s.C, HD = s.H * s.D, KD = s.K * s.D, QKV = HD + 2 * KD, F = s.F;
    std::vector<T> h(N * (HD > C ? HD : C)), y(N * (QKV > 2 * F ? QKV : 2 * F));
    std::vector<T> weights(s.most_blocks * s.block);
    for (int64_t r = 0; r < N; r++) memcpy(s.x + r * C, s.embedding + s.ids[r] * C, C * sizeof(T));
    for (int64_t layer = 0; layer < s.layers; layer++) {
        const T *const *w = s.weights + 5 * layer, *gain = w[1];
        for (int64_t r = 0; r < N; r++) normalize(s.x + r * C, &h[r * C], C, s.eps);
        y.assign(y.size(), 0);
        product(w[0], h.data(), y.data(), N, QKV, C);                            // queries, keys, values
        for (int64_t r = 0; r < N; r++) {
            T *row = &y[r * QKV];
            for (int64_t i = 0; i < s.H + s.K; i++) turn(s, row + i * s.D, gain + i * s.D, s.positions[r]);
            for (int64_t g = 0; g < s.K; g++) {
                int64_t to = place(s, layer, r, g, s.positions[r]);
                memcpy(s.keys + to, row + HD + g * s.D, s.D * sizeof(T));
                memcpy(s.values + to, row + HD + KD + g * s.D, s.D * sizeof(T));
            }
        }
        for (int64_t r = 0; r < N; r++)
            for (int64_t i = 0; i < s.H; i++)
                attend(s, layer, r, i / (s.H / s.K), &y[r * QKV + i * s.D], &h[r * HD + i * s.D],
                       weights.data());
        product(w[2], h.data(), s.x, N, C, HD);                                  // x += attention
        for (int64_t r = 0; r < N; r++) normalize(s.x + r * C, &h[r * C], C, s.eps);
        y.assign(y.size(), 0);
        product(w[3], h.data(), y.data(), N, 2 * F, C);                          // gate and up
        for (int64_t r = 0; r < N; r++)                  // in place: what is written was read before
            for (int64_t i = 0; i < F; i++) {
                T gate = y[r * 2 * F + i], up = y[r * 2 * F + F + i];
                y[r * F + i] = gate / (1 + std::exp(-gate)) * up;
            }
        product(w[4], y.data(), s.x, N, C, F);                                   // x += feed-forward
    }
}

// The same text compiled twice: a processor without AVX2 must never meet its instructions.
template <class T> static void any_processor(const Step<T> &s) { whole_step(s); }
#if defined(__x86_64__)
template <class T> __attribute__((target("avx2,fma"))) static void with_avx2(const Step<T> &s) {
    whole_step(s);
}
static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
template <class T> static void best(const Step<T> *s) { has_avx2 ? with_avx2(*s) : any_processor(*s); }
#else
template <class T> static void best(const Step<T> *s) { any_processor(*s); }
#endif

extern "C" void decode_step_float(const Step<float> *s) { best(s); }
extern "C" void decode_step_double(const Step<double> *s) { best(s); }
