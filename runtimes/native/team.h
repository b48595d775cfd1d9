/* A team of threads that run the same function side by side. Knows no model.
 *
 * The function is a row of phases. A phase has pieces of work, a part of them for each member, who
 * takes them in order; whoever is through with his own part goes on with those of others. A phase
 * ends when all pieces are done. So a member whom the system holds up holds up nobody, unless in
 * the middle of a piece: the others do his share, and he finds the phases done.
 */
#ifndef ED_TEAM_H
#define ED_TEAM_H

typedef struct EdTeam EdTeam;

/* One member's way through a run. */
typedef struct {
    EdTeam *team;
    int index;     /* of the member; 0 is the caller's thread */
    int phase;     /* where he is */
    int taken;     /* pieces that he took in this phase */
    int helped;    /* members whose parts are given out, himself first */
    int next, end; /* those that were taken last: [next, end) */
} EdWorker;

typedef void EdWork(void *work, EdWorker *me);

/* For runs of at most `phases` phases; NULL if there is no memory. Threads start with the first
 * run; if the system gives fewer than asked for, the team is that much smaller. */
EdTeam *ed_team_open(int threads, int phases);
void ed_team_close(EdTeam *team);
int ed_team_size(const EdTeam *team);
/* Let runs have so many phases; -1 if there is no memory. */
int ed_team_widen(EdTeam *team, int phases);

/* Run `work` on every member and return when all is done; one run at a time. */
void ed_team_run(EdTeam *team, EdWork *work, void *argument);
/* The same on the caller's thread alone: for what is done sooner than another thread wakes up. */
void ed_team_alone(EdWork *work, void *argument);

/* Take the next of a phase's `all` pieces, [me->next, me->end): `share` of them or, while there are
 * many, more. 0: there are no more and all are done, on to the next phase. Every
 * member asks for the same phases with the same numbers. */
int ed_team_take(EdWorker *me, int share, int all);

#endif
