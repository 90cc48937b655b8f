/* Scores with the versions that deepfm-stream publishes, in the calling process.
 *
 * A server follows a directory of versions on a thread of its own: it verifies each, maps it, and swaps it in. A scorer
 * answers requests with the version of the moment; each thread has its own. Nothing here ends the process or throws: what
 * fails says so by its result, and deepfm_last_error says why.
 *
 * Versions are immutable once they have their directory's name. Do not alter their files in place.
 */
#ifndef DEEPFM_H
#define DEEPFM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct deepfm_server deepfm_server;
typedef struct deepfm_scorer deepfm_scorer;

enum {
  DEEPFM_OK = 0,
  /* No version is served yet. */
  DEEPFM_NO_VERSION = 1,
  /* The request does not fit: not JSON, a value of a wrong type, too many rows. */
  DEEPFM_BAD_REQUEST = 2,
  /* A pointer is null, a text is not UTF-8, or a length is beyond what memory can have. */
  DEEPFM_BAD_ARGUMENT = 3,
  /* A bug in the library. */
  DEEPFM_BUG = 4
};

/* Follows the versions of a model below a directory, such as "versions/clicks". target is "latest" or a version's
 * number. The newest is passed over when the gate rejected it; the manifest says so. That a version was abandoned only the
 * versions topic says: it is followed here, as are versions before they are announced. NULL when the arguments cannot be followed; a directory that is not there yet is waited for. */
deepfm_server *deepfm_follow_directory(const char *versions, const char *model, const char *target);

/* The number of the version served, 0 before the first. */
uint64_t deepfm_serving(const deepfm_server *server);

/* What the server says of itself, as JSON: versions with their states, failures with stage and reason. Free it with
 * deepfm_free_text. NULL on failure. */
char *deepfm_status(const deepfm_server *server);
void deepfm_free_text(char *text);

/* A scorer for one thread. It may outlive its server, and then keeps the version that it has. NULL on failure. */
deepfm_scorer *deepfm_open_scorer(const deepfm_server *server);

/* Scores count rows, each a JSON object of features of the given length, and writes count click probabilities and the
 * number of the one version that gave them. version may be NULL. */
int deepfm_score(deepfm_scorer *scorer, const char *const *rows, const size_t *lengths, size_t count,
                 double *probabilities, uint64_t *version);

/* Ranks count candidates that share a context, whose part is computed once. A field is in the context or in candidates. */
int deepfm_rank(deepfm_scorer *scorer, const char *context, size_t context_length, const char *const *candidates,
                const size_t *lengths, size_t count, double *probabilities, uint64_t *version);

/* Why the last call of this thread failed; "" if none did. Valid until the thread's next call. The thread is the one of the
 * operating system: where tasks move between threads, as goroutines do, ask on the thread that made the call. */
const char *deepfm_last_error(void);

/* NULL is passed over. */
void deepfm_close_scorer(deepfm_scorer *scorer);
void deepfm_close_server(deepfm_server *server);

#ifdef __cplusplus
}
#endif

#endif
