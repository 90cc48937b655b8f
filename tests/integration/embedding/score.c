/* What deepfm.h promises, from C. Arguments: the directory of versions, the number of the version to expect, then rows; prints the
 * version and the probability of each row. */
#include <deepfm.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, deepfm_last_error()); \
      return 1;                                                                 \
    }                                                                           \
  } while (0)

static int says(const char *what) { return strstr(deepfm_last_error(), what) != NULL; }

static int refusals(const char *versions) {
  double probability = 7;
  uint64_t version = 0;
  const char *row = "{}";
  size_t length = 2;
  CHECK(deepfm_follow_directory(NULL, "ctr", "latest") == NULL && says("versions is null"));
  CHECK(deepfm_follow_directory(versions, "../ctr", "latest") == NULL && says("no name of a model"));
  CHECK(deepfm_follow_directory(versions, "ctr", "live") == NULL && says("no alias"));
  CHECK(deepfm_follow_directory("\xff", "ctr", "latest") == NULL && says("not UTF-8"));
  CHECK(deepfm_score(NULL, &row, &length, 1, &probability, &version) == DEEPFM_BAD_ARGUMENT && says("scorer is null"));
  CHECK(deepfm_open_scorer(NULL) == NULL && deepfm_status(NULL) == NULL && deepfm_serving(NULL) == 0);
  deepfm_server *nothing = deepfm_follow_directory("/nowhere", "ctr", "latest");
  deepfm_scorer *scorer = deepfm_open_scorer(nothing);
  CHECK(nothing != NULL && scorer != NULL);
  CHECK(deepfm_score(scorer, &row, &length, 1, &probability, &version) == DEEPFM_NO_VERSION && says("no version"));
  CHECK(probability == 7 && version == 0);
  deepfm_close_scorer(scorer);
  deepfm_close_server(nothing);
  deepfm_close_scorer(NULL);
  deepfm_close_server(NULL);
  deepfm_free_text(NULL);
  return 0;
}

int main(int argc, char **argv) {
  CHECK(argc > 3);
  const char *versions = argv[1];
  uint64_t expected = strtoull(argv[2], NULL, 10);
  const char *const *rows = (const char *const *)&argv[3];
  size_t count = (size_t)argc - 3;
  size_t *lengths = calloc(count, sizeof *lengths);
  double *probabilities = calloc(count, sizeof *probabilities);
  CHECK(lengths != NULL && probabilities != NULL);
  for (size_t at = 0; at < count; at++) lengths[at] = strlen(rows[at]);
  if (refusals(versions)) return 1;

  deepfm_server *server = deepfm_follow_directory(versions, "ctr", "latest");
  CHECK(server != NULL);
  time_t start = time(NULL);
  while (deepfm_serving(server) != expected) {
    CHECK(time(NULL) - start < 60);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
  char *status = deepfm_status(server);
  CHECK(status != NULL && strstr(status, "\"state\":\"serving\"") != NULL);
  deepfm_free_text(status);

  deepfm_scorer *scorer = deepfm_open_scorer(server);
  uint64_t version = 0;
  CHECK(scorer != NULL);
  CHECK(deepfm_score(scorer, rows, lengths, count, probabilities, &version) == DEEPFM_OK && version == expected);
  CHECK(strcmp(deepfm_last_error(), "") == 0);
  for (size_t at = 0; at < count; at++) printf("%llu %.17g\n", (unsigned long long)version, probabilities[at]);
  double *ranked = calloc(count, sizeof *ranked);
  CHECK(ranked != NULL);
  CHECK(deepfm_rank(scorer, "{}", 2, rows, lengths, count, ranked, NULL) == DEEPFM_OK);
  CHECK(memcmp(ranked, probabilities, count * sizeof *ranked) == 0);

  const char *broken = "{\"user\":";
  size_t length = strlen(broken);
  CHECK(deepfm_score(scorer, &broken, &length, 1, ranked, &version) == DEEPFM_BAD_REQUEST && says("row 0: EOF"));
  CHECK(deepfm_score(scorer, NULL, NULL, 0, NULL, &version) == DEEPFM_OK);
  CHECK(deepfm_score(scorer, NULL, NULL, 1, ranked, &version) == DEEPFM_BAD_ARGUMENT);
  CHECK(deepfm_score(scorer, rows, lengths, count, NULL, &version) == DEEPFM_BAD_ARGUMENT);
  /* Nothing is read of what cannot be there. */
  CHECK(deepfm_score(scorer, rows, lengths, SIZE_MAX, ranked, &version) == DEEPFM_BAD_REQUEST && says("more than 10000 rows"));
  CHECK(deepfm_rank(scorer, "{}", 2, rows, lengths, 10001, ranked, NULL) == DEEPFM_BAD_REQUEST && says("more than 10000 rows"));
  length = SIZE_MAX;
  CHECK(deepfm_score(scorer, rows, &length, 1, ranked, &version) == DEEPFM_BAD_ARGUMENT && says("beyond what memory"));
  CHECK(deepfm_rank(scorer, "{}", SIZE_MAX, rows, lengths, count, ranked, NULL) == DEEPFM_BAD_ARGUMENT && says("beyond"));
  deepfm_close_server(server);
  CHECK(deepfm_score(scorer, rows, lengths, count, ranked, &version) == DEEPFM_OK && version == expected);
  deepfm_close_scorer(scorer);
  free(ranked);
  free(lengths);
  free(probabilities);
  return 0;
}
