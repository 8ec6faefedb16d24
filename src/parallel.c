/* The only file that knows OpenMP: opens the region, sets the floating-point environment, survives fork. */
#define _GNU_SOURCE /* pthread_getattr_np */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#include <sys/mman.h>
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

/* Steps that one team runs, from `first` on, which progress may have begun. stopped: the one that was late, or count. */
typedef struct job {
    fc_step *step;
    const void *steps;
    int first, count;
    ptrdiff_t *progress;
    double deadline;
    atomic_int stopped;
} job;

/* What one thread does of the step `at`: part, part + threads, and so on. */
typedef struct turn {
    job *j;
    const fc_work *work;
    const fc_buffers *buffers;
    int at, part, threads;
} turn;

static ptrdiff_t share(ptrdiff_t items, int part, int parts)
{
    return items / parts * part + (part < items % parts ? part : items % parts);
}

static void run_part(const turn *t, int part)
{
    const fc_work *w = t->work;
    const ptrdiff_t first = share(w->items, part, w->parts), end = share(w->items, part + 1, w->parts);
    ptrdiff_t *done = &t->j->progress[part];
    if (t->at > t->j->first) *done = 0;
    if (first + *done >= end) return;
    char *workspace = (char *)t->buffers->workspace + (size_t)part * w->workspace_bytes;
    *done = w->run(w, t->buffers, workspace, first + *done, end, t->j->deadline) - first;
    if (first + *done < end) atomic_store(&t->j->stopped, t->at);
}

/* Tables on the stack take up to 110 KB (unpacked weights of a transposed convolution). A thread that has less than this
 * left lends its work to one that has more, in 20 us; where that cannot be made it tries itself. */
enum { STACK_NEEDED = 160 << 10, STACK_LENT = 512 << 10 };
static _Thread_local char *stack_end; /* of this thread, downwards */

static size_t stack_left(void)
{
    pthread_attr_t attributes;
    void *end;
    size_t size;
    if (!stack_end && pthread_getattr_np(pthread_self(), &attributes) == 0) {
        if (pthread_attr_getstack(&attributes, &end, &size) == 0) stack_end = end;
        pthread_attr_destroy(&attributes);
    }
    return (size_t)((char *)__builtin_frame_address(0) - stack_end);
}

typedef struct loan {
    void (*work)(void *);
    void *with;
} loan;

static void *do_lent(void *lent)
{
    const loan *l = lent;
    l->work(l->with);
    return NULL;
}

void fc_with_stack(void (*work)(void *), void *with)
{
    loan l = { work, with };
    pthread_attr_t attributes;
    pthread_t thread;
    int lent = 0;
    if (stack_left() < STACK_NEEDED && pthread_attr_init(&attributes) == 0) {
        pthread_attr_setstacksize(&attributes, STACK_LENT);
        lent = pthread_create(&thread, &attributes, do_lent, &l) == 0;
        pthread_attr_destroy(&attributes);
    }
    if (lent) pthread_join(thread, NULL);
    else work(with);
}

static void take_turn(void *of)
{
    const turn *t = of;
    const __typeof__(fp_enter()) saved = fp_enter();
    for (int part = t->part; part < t->work->parts; part += t->threads) run_part(t, part);
    fp_leave(saved);
}

/* What one of a team's threads does. A barrier takes a third of the time of a region of its own for each step; after it
 * all agree whether time is up, as nobody can have stopped at a later step by then and be read as having stopped here. */
static void run_steps(job *j, int thread, int threads)
{
    for (int at = j->first; at < j->count && at <= atomic_load(&j->stopped); at++) {
        fc_buffers buffers;
        turn t = { j, j->step(j->steps, at, &buffers), &buffers, at, thread, threads };
        if (thread < t.work->parts) fc_with_stack(take_turn, &t);
#ifdef _OPENMP
        if (threads > 1) {
#pragma omp barrier
        }
#endif
    }
}

#ifdef _OPENMP
/* One team at work at a time: a call that finds one runs every part on its caller's thread. But libgomp keeps a team for
 * each thread that ever had one, until that thread ends; so only this many are kept, and others let go after each call. */
enum { MOST_TEAMS = 8 };
static atomic_flag team_busy = ATOMIC_FLAG_INIT;
static atomic_int teams;           /* threads that keep one */
static _Thread_local int team = 1; /* threads of the largest that this thread has had */
static pthread_key_t keeper;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void keeper_ended(void *counter) { atomic_fetch_sub((atomic_int *)counter, 1); }
static void make_keeper(void) { pthread_key_create(&keeper, keeper_ended); }

static void let_go(void)
{
    omp_pause_resource_all(omp_pause_soft);
    if (team == 1) return;
    team = 1;
    pthread_setspecific(keeper, NULL);
    atomic_fetch_sub(&teams, 1);
}

/* Makes `*missing` threads, all of which exist before the first ends, and counts down to those that could not be made. */
static void *make(void *missing)
{
    int *left = missing;
    pthread_t next;
    if (*left == 0) return NULL;
    --*left;
    if (pthread_create(&next, NULL, make, left)) ++*left;
    else pthread_join(next, NULL);
    return NULL;
}

/* libgomp ends the process when it cannot make a thread, or has no memory to say so. So threads that are not there yet are
 * tried first, and two more, because those that just ended may still be counted; and a room for what libgomp allocates.
 * What another process or thread takes in between is not seen. */
static int team_for(int wanted)
{
    enum { SPARE = 2, ROOM = 1 << 20 };
    if (wanted <= team) return wanted;
    int missing = wanted - 1 + SPARE;
    make(&missing);
    void *room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return team;
    munmap(room, ROOM);
    wanted -= missing;
    if (wanted <= team) return team;
    pthread_once(&once, make_keeper);
    if (team == 1 && pthread_setspecific(keeper, &teams) == 0) atomic_fetch_add(&teams, 1);
    return team = wanted;
}
#endif

fc_status fc_run_steps(fc_step *step, const void *steps, int count, int parts, int *at, ptrdiff_t *progress,
                       double deadline)
{
    job j = { step, steps, *at, count, progress, deadline, count };
#ifdef _OPENMP
    if (parts > 1 && !omp_in_parallel() && !atomic_flag_test_and_set(&team_busy)) {
        const int most = omp_get_num_procs(), threads = team_for(parts < most ? parts : most);
#pragma omp parallel num_threads(threads)
        run_steps(&j, omp_get_thread_num(), omp_get_num_threads());
        if (atomic_load(&teams) > MOST_TEAMS) let_go();
        atomic_flag_clear(&team_busy);
    } else
#endif
        run_steps(&j, 0, 1);
    (void)parts;
    *at = j.stopped;
    return *at < count ? FC_MORE : FC_OK;
}

typedef struct only {
    const fc_work *work;
    const fc_buffers *buffers;
} only;

static const fc_work *only_step(const void *of, int at, fc_buffers *buffers)
{
    const only *o = of;
    (void)at;
    *buffers = *o->buffers;
    return o->work;
}

fc_status fc_run(const fc_work *work, const fc_buffers *buffers, ptrdiff_t *progress, double deadline)
{
    const only o = { work, buffers };
    int at = 0;
    return fc_run_steps(only_step, &o, 1, work->parts, &at, progress, deadline);
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
    let_go();
#endif
}

void fc_after_fork(int child)
{
#ifdef _OPENMP
    if (child) atomic_store(&teams, 0);
    atomic_flag_clear(&team_busy);
#else
    (void)child;
#endif
}

double fc_fma_burn(int isa, fc_type type, int threads, ptrdiff_t rounds)
{
    const fc_kernels *k = fc_kernels_of(isa, type);
    double flops = 0;
#ifdef _OPENMP
    threads = team_for(threads);
#pragma omp parallel num_threads(threads) reduction(+ : flops)
#endif
    flops += k->fma_burn(rounds);
    (void)threads;
    return flops;
}
