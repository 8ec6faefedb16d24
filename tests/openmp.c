/* OpenMP as GCC calls it, by threads that are made for each region: for the thread sanitizer, which cannot see how libgomp
 * synchronises and would take everything that two regions share for a race. Here all of it is pthread_create and
 * pthread_join, which it knows; parts of one region remain unordered, as they are. */
#include <omp.h>
#include <pthread.h>

void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags);
void GOMP_barrier(void);

enum { MOST = 64, PROCESSORS = 4 };
static _Thread_local int number, count = 1;
static pthread_barrier_t barrier; /* of the one team at work */

typedef struct member {
    void (*work)(void *);
    void *data;
    int number, count;
} member;

static void *run(void *of)
{
    const member *m = of;
    number = m->number;
    count = m->count;
    m->work(m->data);
    return NULL;
}

void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags)
{
    pthread_t team[MOST];
    member members[MOST];
    const int n = threads < 1 ? 1 : threads > MOST ? MOST : (int)threads;
    (void)flags;
    pthread_barrier_init(&barrier, NULL, (unsigned)n);
    for (int i = 1; i < n; i++) {
        members[i] = (member){ work, data, i, n };
        pthread_create(&team[i], NULL, run, &members[i]);
    }
    count = n;
    work(data);
    count = 1;
    for (int i = 1; i < n; i++) pthread_join(team[i], NULL);
    pthread_barrier_destroy(&barrier);
}

void GOMP_barrier(void) { pthread_barrier_wait(&barrier); }

int omp_get_thread_num(void) { return number; }
int omp_get_num_threads(void) { return count; }
int omp_in_parallel(void) { return count > 1; }
int omp_get_num_procs(void) { return PROCESSORS; }
int omp_get_max_threads(void) { return PROCESSORS; }
int omp_pause_resource_all(omp_pause_resource_t kind)
{
    (void)kind;
    return 0;
}
