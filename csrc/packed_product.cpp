// y = W x for a matrix W that is kept in 4 or 8 bits a weight: the bytes are read, never the float32 matrix.
//
// A token that is written needs every weight once, so it waits for memory, and four bits with their scales
// are a seventh of float32 (08_inference/README.md). That is won only if no copy in float32 is made.
// First the plain loop, then the same with vectors of 8 numbers and a team of threads. packed_product.py
// compiles this file at first use and calls it; W is stored as 08_inference/quantize.py stores it:
//
//     packed  (rows, n / 2) bytes, column 2i in the low half, weights -8 to 7 as 0 to 15; or (rows, n) int8
//     codes   (rows, n / 16) bytes: the scale of 16 neighbours of a row is table[code]
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <unistd.h>

#define INLINE inline __attribute__((always_inline))
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of a word is its lowest");

const long GROUP = 16;        // weights that share a scale
const long PIECE = 1 << 16;   // about so many weights a thread takes at a time
const long ALONE = 1 << 17;   // fewer are done before another thread has woken up

struct Product {
    const uint8_t *packed, *codes;
    const float *table, *x;   // (256), (vectors, n)
    float *y;                 // (vectors, rows)
    long rows, n, vectors;
    int bits;
    long row_bytes() const { return n * bits / 8; }
};

// The plain version.
extern "C" void plain_product(const Product *p) {
    for (long v = 0; v < p->vectors; v++)
        for (long r = 0; r < p->rows; r++) {
            const uint8_t *row = p->packed + r * p->row_bytes();
            float sum = 0;
            for (long i = 0; i < p->n; i++) {
                int half = i % 2 ? row[i / 2] >> 4 : row[i / 2] & 15;
                int weight = p->bits == 4 ? half - 8 : (int8_t)row[i];
                sum += weight * p->table[p->codes[(r * p->n + i) / GROUP]] * p->x[v * p->n + i];
            }
            p->y[v * p->rows + r] = sum;
        }
}

// Vectors of 8: the compiler makes one instruction of AVX2, or two of NEON or SSE, of each operation.
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

template <class T> static INLINE T load(const void *from) {
    T value;
    memcpy(&value, from, sizeof value);   // one load, aligned or not
    return value;
}

// Weights 8i to 8i + 7 of a row. Four bits: each lane gets the same 32-bit word and moves its own half byte
// to the top and, with its sign, down again; 0 to 15 becomes -8 to 7 by turning over the highest bit of each.
template <int BITS> static INLINE Floats unpack(const uint8_t *row, long i) {
    if (BITS == 4) {
        int32_t word = load<int32_t>(row + 4 * i) ^ 0x88888888;
        Ints all = {word, word, word, word, word, word, word, word};
        return __builtin_convertvector((all << Ints{28, 24, 20, 16, 12, 8, 4, 0}) >> 28, Floats);
    }
    int32_t a = load<int32_t>(row + 8 * i), b = load<int32_t>(row + 8 * i + 4);
    return __builtin_convertvector((Ints{a, a, a, a, b, b, b, b} << Ints{24, 16, 8, 0, 24, 16, 8, 0}) >> 24,
                                   Floats);
}

// One row times V vectors: unpacked once, used V times.
template <int BITS, int V> static INLINE void row_product(const Product &p, long r, long v) {
    const uint8_t *row = p.packed + r * p.row_bytes(), *codes = p.codes + r * (p.n / GROUP);
    Floats sum[V][2] = {};                 // two, because each addition waits for the one before
    for (long g = 0; g < p.n / GROUP; g++) {
        float scale = p.table[codes[g]];
        Floats first = unpack<BITS>(row, 2 * g) * scale, second = unpack<BITS>(row, 2 * g + 1) * scale;
        for (int k = 0; k < V; k++) {
            const float *x = p.x + (v + k) * p.n + g * GROUP;
            sum[k][0] += first * load<Floats>(x);
            sum[k][1] += second * load<Floats>(x + 8);
        }
    }
    for (int k = 0; k < V; k++) {
        float total = 0;
        for (int lane = 0; lane < 8; lane++) total += sum[k][0][lane] + sum[k][1][lane];
        p.y[(v + k) * p.rows + r] = total;
    }
}

template <int BITS> static INLINE void some_rows(const Product &p, long begin, long end) {
    for (long r = begin; r < end; r++) {   // the row stays in the first cache for all vectors
        long v = 0;
        for (; v + 4 <= p.vectors; v += 4) row_product<BITS, 4>(p, r, v);
        for (; v < p.vectors; v++) row_product<BITS, 1>(p, r, v);
    }
}

static INLINE void either(const Product &p, long begin, long end) {
    p.bits == 4 ? some_rows<4>(p, begin, end) : some_rows<8>(p, begin, end);
}

// The same text compiled twice: a processor without AVX2 must never meet its instructions.
static void any_processor(const Product &p, long begin, long end) { either(p, begin, end); }
#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void with_avx2(const Product &p, long begin, long end) {
    either(p, begin, end);
}
static const auto best = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? with_avx2
                                                                                          : any_processor;
#else
static const auto best = any_processor;
#endif

// Threads that sleep between products. Starting one takes longer than a product, so they are kept.
class Team {
    std::mutex mutex;
    std::condition_variable work, done;
    const Product *product = nullptr;   // what there is to do, if anything
    std::atomic<long> next{0};          // the first row that nobody has taken
    long number = 0, step = 1;          // of the product; rows of a piece
    int members = 0, wanted = 0, inside = 0;

    void take_pieces(const Product &p) {
        for (long begin; (begin = next.fetch_add(step)) < p.rows;)
            best(p, begin, begin + step < p.rows ? begin + step : p.rows);
    }

    void live() {
        std::unique_lock<std::mutex> lock(mutex);
        for (long seen = 0;;) {
            work.wait(lock, [&] { return product && number != seen && inside < wanted; });
            const Product &p = *product;
            seen = number, inside++;
            lock.unlock();
            take_pieces(p);
            lock.lock();
            if (--inside == 0) done.notify_one();
        }
    }

public:
    const pid_t process = getpid();

    void run(const Product &p, int threads) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            for (; members < threads - 1; members++) std::thread([this] { live(); }).detach();
            wanted = threads - 1, product = &p, number++, next = 0;
            step = PIECE / p.n + 1;
        }
        work.notify_all();
        take_pieces(p);                 // the caller is one of them, and need not wait for who wakes up late
        std::unique_lock<std::mutex> lock(mutex);
        product = nullptr;
        done.wait(lock, [&] { return inside == 0; });
    }
};

// The fast version. Each row is computed by one thread in one order: the result does not depend on threads.
extern "C" void packed_product(const Product *p, int threads) {
    if (threads < 2 || p->rows * p->n * p->vectors < ALONE) return best(*p, 0, p->rows);
    static std::mutex one_caller;
    std::lock_guard<std::mutex> lock(one_caller);
    static Team *team;                  // never deleted: its threads may outlive everything else
    if (!team || team->process != getpid()) team = new Team;   // a fork copies no threads
    team->run(*p, threads);
}
