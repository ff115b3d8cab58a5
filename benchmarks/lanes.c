/* The mark for ensembles: Dormand-Prince 5(4) on the Lorenz system, W trajectories in lock step, each with its own
 * step size; elementary controller (0.9, 0.2, 10). Same algorithm as the library's loop, nothing hidden: finished
 * trajectories take steps of length zero until the last of their block is done.
 *
 *   gcc -O3 -march=native -ffast-math -shared -fPIC -o lanes.so lanes.c -lm
 *
 * The step loop is one straight line of code a trajectory, so that the compiler keeps the 21 stage values of a vector
 * of trajectories in registers. The error ratio and the step factor are single precision: they need two digits.
 */
#include <math.h>

#ifndef W
#define W 64
#endif

#define RHS(dx, dy, dz, x, y, z)                                                                                       \
    double dx = 10.0 * ((y) - (x)), dy = (x) * (28.0 - (z)) - (y), dz = (x) * (y) - (8.0 / 3.0) * (z)

/* One attempted step of every lane: writes the candidate (u, q) and the squared, scaled error. */
static void attempt(const double y[3][W], const double k[3][W], const double h_[W], double u[3][W], double q[3][W],
                    float e2[W], double rtol, double atol) {
    for (int l = 0; l < W; l++) {
        const double h = h_[l], x = y[0][l], v = y[1][l], w = y[2][l];
        const double a1 = k[0][l], b1 = k[1][l], c1 = k[2][l];
#define COMBINE(name, x, p) const double name = x + h * (p)
        COMBINE(x2, x, 0.2 * a1);
        COMBINE(v2, v, 0.2 * b1);
        COMBINE(w2, w, 0.2 * c1);
        RHS(a2, b2, c2, x2, v2, w2);
#define S3(a, b) (3.0 / 40 * a + 9.0 / 40 * b)
        COMBINE(x3, x, S3(a1, a2));
        COMBINE(v3, v, S3(b1, b2));
        COMBINE(w3, w, S3(c1, c2));
        RHS(a3, b3, c3, x3, v3, w3);
#define S4(a, b, c) (44.0 / 45 * a - 56.0 / 15 * b + 32.0 / 9 * c)
        COMBINE(x4, x, S4(a1, a2, a3));
        COMBINE(v4, v, S4(b1, b2, b3));
        COMBINE(w4, w, S4(c1, c2, c3));
        RHS(a4, b4, c4, x4, v4, w4);
#define S5(a, b, c, d) (19372.0 / 6561 * a - 25360.0 / 2187 * b + 64448.0 / 6561 * c - 212.0 / 729 * d)
        COMBINE(x5, x, S5(a1, a2, a3, a4));
        COMBINE(v5, v, S5(b1, b2, b3, b4));
        COMBINE(w5, w, S5(c1, c2, c3, c4));
        RHS(a5, b5, c5, x5, v5, w5);
#define S6(a, b, c, d, e)                                                                                              \
    (9017.0 / 3168 * a - 355.0 / 33 * b + 46732.0 / 5247 * c + 49.0 / 176 * d - 5103.0 / 18656 * e)
        COMBINE(x6, x, S6(a1, a2, a3, a4, a5));
        COMBINE(v6, v, S6(b1, b2, b3, b4, b5));
        COMBINE(w6, w, S6(c1, c2, c3, c4, c5));
        RHS(a6, b6, c6, x6, v6, w6);
#define S7(a, c, d, e, f)                                                                                              \
    (35.0 / 384 * a + 500.0 / 1113 * c + 125.0 / 192 * d - 2187.0 / 6784 * e + 11.0 / 84 * f)
        COMBINE(x7, x, S7(a1, a3, a4, a5, a6));
        COMBINE(v7, v, S7(b1, b3, b4, b5, b6));
        COMBINE(w7, w, S7(c1, c3, c4, c5, c6));
        RHS(a7, b7, c7, x7, v7, w7);
#define ERR(a, c, d, e, f, g)                                                                                          \
    (71.0 / 57600 * a - 71.0 / 16695 * c + 71.0 / 1920 * d - 17253.0 / 339200 * e + 22.0 / 525 * f - 1.0 / 40 * g)
#define RATIO(err, old, new) ((float)(h * (err)) / (float)(atol + rtol * fmax(fabs(old), fabs(new))))
        const float rx = RATIO(ERR(a1, a3, a4, a5, a6, a7), x, x7);
        const float rv = RATIO(ERR(b1, b3, b4, b5, b6, b7), v, v7);
        const float rw = RATIO(ERR(c1, c3, c4, c5, c6, c7), w, w7);
        e2[l] = (rx * rx + rv * rv + rw * rw) * (1.0f / 3.0f);
        u[0][l] = x7, u[1][l] = v7, u[2][l] = w7;
        q[0][l] = a7, q[1][l] = b7, q[2][l] = c7;
    }
}

static long block(double y[3][W], double t1, double dt0, double rtol, double atol) {
    double k[3][W], u[3][W], q[3][W], t[W], h[W], next[W];
    float e2[W], factor[W];
    for (int l = 0; l < W; l++) {
        RHS(dx, dy, dz, y[0][l], y[1][l], y[2][l]);
        k[0][l] = dx, k[1][l] = dy, k[2][l] = dz;
        t[l] = 0.0, next[l] = dt0;
    }
    for (long n = 0;; n++) {
        double left = 0.0;
        for (int l = 0; l < W; l++) {
            h[l] = fmin(next[l], t1 - t[l]);
            left = fmax(left, t1 - t[l]);
        }
        if (!(left > 0.0)) return n;
        attempt(y, k, h, u, q, e2, rtol, atol);
        for (int l = 0; l < W; l++)
            factor[l] = fminf(fmaxf(0.9f * expf(-0.1f * logf(fmaxf(e2[l], 1e-30f))), 0.2f), 10.0f);
        for (int l = 0; l < W; l++) {
            const int ok = e2[l] <= 1.0f;
            t[l] = ok ? t[l] + h[l] : t[l];
            next[l] = h[l] * (double)factor[l];
            for (int i = 0; i < 3; i++) {
                y[i][l] = ok ? u[i][l] : y[i][l];
                k[i][l] = ok ? q[i][l] : k[i][l];
            }
        }
    }
}

/* y is (3, n), lanes last, overwritten by the state at t1; returns the attempted steps of all blocks times W. */
long lorenz(double *y, long n, double t1, double dt0, double rtol, double atol) {
    long attempts = 0;
    for (long first = 0; first < n; first += W) {
        const long last = n - 1;
        double local[3][W];
        for (int i = 0; i < 3; i++)
            for (int l = 0; l < W; l++) local[i][l] = y[i * n + (first + l < n ? first + l : last)];
        attempts += W * block(local, t1, dt0, rtol, atol);
        for (int i = 0; i < 3; i++)
            for (int l = 0; l < W && first + l < n; l++) y[i * n + first + l] = local[i][l];
    }
    return attempts;
}
