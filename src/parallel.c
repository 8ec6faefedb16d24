/* The only file that knows OpenMP: opens the region, sets the floating-point environment, survives fork. */
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#include "kernels/kernels.h"
#include "dispatch.h"

double fc_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The control word under which every part computes: round to nearest, nothing flushed, nothing trapped. Results do not
 * depend on the caller's mode, and the caller's mode is as before afterwards. */
#if defined(__x86_64__)
static unsigned fp_enter(void)
{
    unsigned saved;
    const unsigned standard = 0x1f80;
    __asm__ volatile("stmxcsr %0" : "=m"(saved));
    __asm__ volatile("ldmxcsr %0" : : "m"(standard));
    return saved;
}
static void fp_leave(unsigned saved) { __asm__ volatile("ldmxcsr %0" : : "m"(saved)); }
#elif defined(__aarch64__)
static unsigned long fp_enter(void)
{
    unsigned long saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(0ul));
    return saved;
}
static void fp_leave(unsigned long saved) { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
#else
static int fp_enter(void) { return 0; }
static void fp_leave(int saved) { (void)saved; }
#endif

typedef struct job {
    const fc_work *work;
    const fc_buffers *buffers;
    ptrdiff_t *progress;
    double deadline;
} job;

static ptrdiff_t share(ptrdiff_t items, int part, int parts)
{
    return items / parts * part + (part < items % parts ? part : items % parts);
}

static void run_part(const job *j, int part)
{
    const fc_work *w = j->work;
    const ptrdiff_t first = share(w->items, part, w->parts), end = share(w->items, part + 1, w->parts);
    if (first + j->progress[part] >= end) return;
    char *workspace = (char *)j->buffers->workspace + (size_t)part * w->workspace_bytes;
    j->progress[part] = w->run(w, j->buffers, workspace, first + j->progress[part], end, j->deadline) - first;
}

#ifdef _OPENMP
/* One team at a time: a call that finds it busy runs every part on its caller's thread. */
static atomic_flag team_busy = ATOMIC_FLAG_INIT;
#endif

static void run_parts(const job *j)
{
    const int parts = j->work->parts;
#ifdef _OPENMP
    if (parts > 1 && !omp_in_parallel() && !atomic_flag_test_and_set(&team_busy)) {
        const int most = omp_get_num_procs();
#pragma omp parallel num_threads(parts < most ? parts : most)
        {
            const __typeof__(fp_enter()) saved = fp_enter();
            for (int part = omp_get_thread_num(); part < parts; part += omp_get_num_threads()) run_part(j, part);
            fp_leave(saved);
        }
        atomic_flag_clear(&team_busy);
        return;
    }
#endif
    const __typeof__(fp_enter()) saved = fp_enter();
    for (int part = 0; part < parts; part++) run_part(j, part);
    fp_leave(saved);
}

fc_status fc_run(const fc_work *work, const fc_buffers *buffers, ptrdiff_t *progress, double deadline)
{
    const job j = { work, buffers, progress, deadline };
    run_parts(&j);
    for (int part = 0; part < work->parts; part++)
        if (share(work->items, part, work->parts) + progress[part] < share(work->items, part + 1, work->parts))
            return FC_MORE;
    return FC_OK;
}

#ifdef _OPENMP
int fc_openmp(void) { return 1; }
int fc_max_threads(void) { return omp_get_max_threads(); }
int fc_processors(void) { return omp_get_num_procs(); }
#else
int fc_openmp(void) { return 0; }
int fc_max_threads(void) { return 1; }
int fc_processors(void) { return 1; }
#endif

/* libgomp's team does not survive a fork, and a child that used it would hang. So the team is waited for, a call's deadline
 * at most, let go, and held across the fork, that no thread may make it anew in between; both sides then begin afresh. */
void fc_before_fork(void)
{
#ifdef _OPENMP
    const struct timespec pause = { .tv_nsec = 20000 };
    while (atomic_flag_test_and_set(&team_busy)) nanosleep(&pause, NULL);
    omp_pause_resource_all(omp_pause_soft);
#endif
}

void fc_after_fork(void)
{
#ifdef _OPENMP
    atomic_flag_clear(&team_busy);
#endif
}

double fc_fma_burn(int isa, fc_type type, int threads, ptrdiff_t rounds)
{
    const fc_kernels *k = fc_kernels_of(isa, type);
    double flops = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(+ : flops)
#endif
    flops += k->fma_burn(rounds);
    (void)threads;
    return flops;
}
