/* Threads on POSIX: they spin for a moment, since the next step mostly comes at once, then sleep.
 *
 * After a fork the child has none of the threads, so its teams start anew.
 */
#define _POSIX_C_SOURCE 200809L
#include "team.h"

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* How long a thread waits for the next run before it sleeps, and between two looks at the clock. */
#define SPIN_NANOSECONDS 400000
#define SPINS_PER_LOOK 64
/* Spins within a run before a thread lets others use its core. */
#define SPINS_PER_YIELD 4096

/* Of what is left of a part, this share is taken at once. */
#define SHARES 2

/* Added to the number of members at work when a run takes no more of them. */
#define CLOSED (1 << 30)

/* Pieces that were counted, behind the number of the run that counts them: what an earlier run left
 * counts as none, so nobody has to clear it. In a line of its own, since what others write would
 * have to be fetched again. */
typedef struct {
    _Alignas(64) atomic_ullong pieces;
} Count;

struct EdTeam {
    int asked, started, phases;
    uint32_t run;
    pthread_t *threads;
    void *memory;  /* in which the counts lie */
    Count *counts; /* of each phase: the pieces done, then those that each member has given out */
    pthread_mutex_t busy, lock;
    pthread_cond_t wake;
    int sleeping, running; /* threads, all told */
    EdWork *work;
    void *argument;
    _Alignas(64) atomic_uint job;
    _Alignas(64) atomic_int members; /* at work besides the caller */
    atomic_int closing;
    EdTeam *following;
};

static EdTeam *teams;
static pthread_mutex_t teams_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t watching = PTHREAD_ONCE_INIT;

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long long nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void make_idle(EdTeam *team)
{
    pthread_mutex_init(&team->busy, NULL);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->wake, NULL);
    team->started = 0;
    team->sleeping = 0;
    team->running = 0;
    atomic_store(&team->members, CLOSED);
}

static void before_fork(void)
{
    pthread_mutex_lock(&teams_lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&teams_lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&teams_lock, NULL);
    for (EdTeam *team = teams; team; team = team->following)
        make_idle(team);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Zeros, of which only those that are used take memory. */
static int renew_counts(EdTeam *team, int phases)
{
    size_t count = (size_t)phases * (size_t)(team->asked + 1);
    void *memory = calloc(count + 1, sizeof(Count));
    if (!memory)
        return -1;
    free(team->memory);
    team->memory = memory;
    team->counts = (Count *)(((uintptr_t)memory + 63) / 64 * 64);
    team->phases = phases;
    return 0;
}

EdTeam *ed_team_open(int threads, int phases)
{
    EdTeam *team = aligned_alloc(64, sizeof *team);
    if (!team)
        return NULL;
    *team = (EdTeam){.asked = threads};
    team->threads = calloc((size_t)threads, sizeof *team->threads);
    if (!team->threads || renew_counts(team, phases)) {
        free(team->threads);
        free(team->memory);
        free(team);
        return NULL;
    }
    pthread_once(&watching, watch_forks);
    make_idle(team);
    pthread_mutex_lock(&teams_lock);
    team->following = teams;
    teams = team;
    pthread_mutex_unlock(&teams_lock);
    return team;
}

int ed_team_size(const EdTeam *team)
{
    return team->asked;
}

int ed_team_widen(EdTeam *team, int phases)
{
    int status = 0;
    pthread_mutex_lock(&team->busy);
    if (phases > team->phases)
        status = renew_counts(team, phases);
    pthread_mutex_unlock(&team->busy);
    return status;
}

/* Spin for a while, then let others use the core. */
static void pause_a_bit(int *spins)
{
    relax();
    if (++*spins > SPINS_PER_YIELD)
        sched_yield();
}

/* Wait until the number of the job is another than `seen`. */
static unsigned await_job(EdTeam *team, unsigned seen)
{
    long long end = nanoseconds() + SPIN_NANOSECONDS;
    unsigned job;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            job = atomic_load_explicit(&team->job, memory_order_acquire);
            if (job != seen)
                return job;
            relax();
        }
    } while (nanoseconds() < end);
    pthread_mutex_lock(&team->lock);
    team->sleeping++;
    while ((job = atomic_load(&team->job)) == seen)
        pthread_cond_wait(&team->wake, &team->lock);
    team->sleeping--;
    pthread_mutex_unlock(&team->lock);
    return job;
}

/* Other libraries may let small numbers be flushed to zero, which would change results. */
static void run_exactly(EdWork *work, void *argument, EdWorker me)
{
    fenv_t before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    work(argument, &me);
    fesetenv(&before);
}

static void work_exactly(EdTeam *team, int index)
{
    run_exactly(team->work, team->argument, (EdWorker){.team = team, .index = index});
}

void ed_team_alone(EdWork *work, void *argument)
{
    run_exactly(work, argument, (EdWorker){.index = 0});
}

/* A run that is over may be gone, with all that it works on. */
static int join_run(EdTeam *team)
{
    int members = atomic_load(&team->members);
    while (!(members & CLOSED))
        if (atomic_compare_exchange_weak(&team->members, &members, members + 1))
            return 1;
    return 0;
}

typedef struct {
    EdTeam *team;
    int index;
} Start;

static void *follow(void *argument)
{
    Start *start = argument;
    EdTeam *team = start->team;
    int index = start->index;
    unsigned seen = 0;
    free(start);
    for (;;) {
        seen = await_job(team, seen);
        if (atomic_load(&team->closing))
            return NULL;
        if (join_run(team)) {
            work_exactly(team, index);
            atomic_fetch_sub(&team->members, 1);
        }
    }
}

static void start(EdTeam *team)
{
    team->started = 1;
    atomic_store(&team->job, 0);
    for (team->running = 1; team->running < team->asked; team->running++) {
        Start *one = malloc(sizeof *one);
        if (!one)
            return;
        *one = (Start){team, team->running};
        if (pthread_create(&team->threads[team->running], NULL, follow, one)) {
            free(one);
            return;
        }
    }
}

static void post(EdTeam *team)
{
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add_explicit(&team->job, 1, memory_order_release);
    if (team->sleeping)
        pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
}

void ed_team_run(EdTeam *team, EdWork *work, void *argument)
{
    int spins = 0;
    pthread_mutex_lock(&team->busy);
    if (!team->started)
        start(team);
    team->run++;
    team->work = work;
    team->argument = argument;
    atomic_store(&team->members, 0);
    if (team->running > 1)
        post(team);
    work_exactly(team, 0);
    atomic_fetch_or(&team->members, CLOSED);
    while (atomic_load(&team->members) != CLOSED)
        pause_a_bit(&spins);
    pthread_mutex_unlock(&team->busy);
}

static int counted(const EdTeam *team, unsigned long long pieces)
{
    return pieces >> 32 == team->run ? (int)(pieces & UINT32_MAX) : 0;
}

static unsigned long long as_count(const EdTeam *team, int pieces)
{
    return (unsigned long long)team->run << 32 | (unsigned)pieces;
}

static void add(const EdTeam *team, Count *count, int more)
{
    unsigned long long seen = atomic_load_explicit(&count->pieces, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(
        &count->pieces, &seen, as_count(team, counted(team, seen) + more), memory_order_acq_rel,
        memory_order_relaxed))
        ;
}

/* The first piece of a member's own part; the parts lie one after the other. */
static int first_of(const EdTeam *team, int member, int all)
{
    return (int)((long long)all * member / team->asked);
}

/* Take some of the pieces that a member has not given out yet. Large shares first and small ones
 * last, so that all are through at about the same time. */
static int take_from(EdWorker *me, int member, Count *count, int share, int all)
{
    const EdTeam *team = me->team;
    int first = first_of(team, member, all), size = first_of(team, member + 1, all) - first;
    unsigned long long seen, then;
    if (!size)
        return 0;
    seen = atomic_load_explicit(&count->pieces, memory_order_relaxed);
    for (;;) {
        int next = counted(team, seen), part = (size - next) / SHARES;
        if (next == size)
            return 0;
        part = part > share ? part : share;
        part = part < size - next ? part : size - next;
        then = as_count(team, next + part);
        if (atomic_compare_exchange_weak_explicit(&count->pieces, &seen, then,
                                                  memory_order_relaxed, memory_order_relaxed)) {
            me->next = first + next;
            me->end = me->next + part;
            me->taken += part;
            return 1;
        }
    }
}

/* Alone: all pieces at once. */
static int take_all(EdWorker *me, int all)
{
    if (me->taken < all) {
        me->next = 0;
        me->end = me->taken = all;
        return 1;
    }
    me->taken = 0;
    me->phase++;
    return 0;
}

int ed_team_take(EdWorker *me, int share, int all)
{
    EdTeam *team = me->team;
    unsigned long long over;
    Count *counts;
    int spins = 0;
    if (!team)
        return take_all(me, all);
    counts = &team->counts[me->phase * (team->asked + 1)];
    for (; me->helped < team->asked; me->helped++) {
        int member = (me->index + me->helped) % team->asked;
        if (take_from(me, member, &counts[1 + member], share, all))
            return 1;
    }
    if (me->taken)
        add(team, counts, me->taken);
    over = as_count(team, all);
    while (all && atomic_load_explicit(&counts->pieces, memory_order_acquire) != over)
        pause_a_bit(&spins);
    me->helped = me->taken = 0;
    me->phase++;
    return 0;
}

static void forget(EdTeam *team)
{
    pthread_mutex_lock(&teams_lock);
    for (EdTeam **place = &teams; *place; place = &(*place)->following) {
        if (*place == team) {
            *place = team->following;
            break;
        }
    }
    pthread_mutex_unlock(&teams_lock);
}

void ed_team_close(EdTeam *team)
{
    if (!team)
        return;
    forget(team);
    if (team->started && team->running > 1) {
        atomic_store(&team->closing, 1);
        post(team);
        for (int i = 1; i < team->running; i++)
            pthread_join(team->threads[i], NULL);
    }
    free(team->threads);
    free(team->memory);
    free(team);
}
