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
#include <stdlib.h>
#include <time.h>

/* How long a thread waits for the next run before it sleeps, and between two looks at the clock. */
#define SPIN_NANOSECONDS 400000
#define SPINS_PER_LOOK 64
/* Spins within a run before a thread lets others use its core. */
#define SPINS_PER_YIELD 4096

/* Added to the number of members at work when a run takes no more of them. */
#define CLOSED (1 << 30)

/* Of one phase: how many pieces were taken and are done. In lines of their own: those who wait for
 * the last pieces must not slow down those who take them. */
typedef struct {
    _Alignas(64) atomic_int taken;
    _Alignas(64) atomic_int done;
} Phase;

struct EdTeam {
    int asked, started, phases, used; /* used: phases of the latest run */
    pthread_t *threads;
    Phase *progress;
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
    team->used = team->phases; /* a run that a fork cut off may have begun any of them */
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

EdTeam *ed_team_open(int threads, int phases)
{
    EdTeam *team = aligned_alloc(64, sizeof *team);
    if (!team)
        return NULL;
    *team = (EdTeam){.asked = threads, .phases = phases};
    team->threads = calloc((size_t)threads, sizeof *team->threads);
    team->progress = aligned_alloc(64, (size_t)phases * sizeof *team->progress);
    if (!team->threads || !team->progress) {
        free(team->threads);
        free(team->progress);
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
    Phase *progress = NULL;
    pthread_mutex_lock(&team->busy);
    if (phases > team->phases)
        progress = aligned_alloc(64, (size_t)phases * sizeof *progress);
    if (progress) {
        free(team->progress);
        team->progress = progress;
        team->phases = team->used = phases;
    }
    pthread_mutex_unlock(&team->busy);
    return team->phases < phases ? -1 : 0;
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

/* Other libraries may let small numbers be flushed to zero, which would change results. Returns how
 * many phases there were, the same for every member. */
static int run_exactly(EdWork *work, void *argument, EdWorker me)
{
    fenv_t before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    work(argument, &me);
    fesetenv(&before);
    return me.phase;
}

static int work_exactly(EdTeam *team, int index)
{
    return run_exactly(team->work, team->argument, (EdWorker){.team = team, .index = index});
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
    for (int i = 0; i < team->used; i++) {
        atomic_store_explicit(&team->progress[i].taken, 0, memory_order_relaxed);
        atomic_store_explicit(&team->progress[i].done, 0, memory_order_relaxed);
    }
    team->work = work;
    team->argument = argument;
    atomic_store(&team->members, 0);
    if (team->running > 1)
        post(team);
    team->used = work_exactly(team, 0);
    atomic_fetch_or(&team->members, CLOSED);
    while (atomic_load(&team->members) != CLOSED)
        pause_a_bit(&spins);
    pthread_mutex_unlock(&team->busy);
}

/* Large parts first and small ones last, so that all are through at about the same time. */
static int part_of(const EdTeam *team, int share, int left)
{
    int part = left / (2 * team->asked);
    return part > share ? part : share;
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
    Phase *phase;
    int spins = 0, next;
    if (!me->team)
        return take_all(me, all);
    phase = &me->team->progress[me->phase];
    next = atomic_load_explicit(&phase->taken, memory_order_relaxed);
    while (next < all) {
        int part = part_of(me->team, share, all - next),
            end = next + part < all ? next + part : all;
        if (atomic_compare_exchange_weak_explicit(&phase->taken, &next, end, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            me->next = next;
            me->end = end;
            me->taken += end - next;
            return 1;
        }
    }
    if (me->taken)
        atomic_fetch_add_explicit(&phase->done, me->taken, memory_order_release);
    me->taken = 0;
    while (atomic_load_explicit(&phase->done, memory_order_acquire) < all)
        pause_a_bit(&spins);
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
    free(team->progress);
    free(team);
}
