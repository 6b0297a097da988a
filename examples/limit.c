/*
 * A program that decides for itself how much memory it may use: 200 MB of data under a limit of 32 MB, then without one.
 *
 * Linked with -lpolder, or preloaded; without either it runs as any program does.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "polder/polder.h"

#pragma weak polder_set_memory_limit
#pragma weak polder_get_statistics

#define BLOCKS 200
#define BLOCK_SIZE 1000000

static unsigned char expected(int block, size_t index) { return (unsigned char)(block * 31 + index % 251); }

static int count_wrong(unsigned char* const* blocks) {
  int wrong = 0;
  for (int i = 0; i < BLOCKS; ++i) {
    for (size_t j = 0; j < BLOCK_SIZE; j += 997) wrong += blocks[i][j] != expected(i, j);
  }
  return wrong;
}

static void report(const char* when) {
  struct polder_statistics statistics = {.size = sizeof statistics};
  if (!polder_get_statistics || polder_get_statistics(&statistics) != 0) return;
  printf("%s: charged %" PRIu64 " MiB, stored %" PRIu64 " MiB, evictions %" PRIu64 "\n", when,
         statistics.charged_bytes >> 20, statistics.stored_bytes >> 20, statistics.evictions);
}

int main(void) {
  if (!polder_set_memory_limit) printf("not running on Polder: no limit\n");
  if (polder_set_memory_limit) {
    const int error = polder_set_memory_limit((size_t)32 << 20);
    if (error != 0) {
      fprintf(stderr, "limit refused: %s\n", strerror(error));
      return 1;
    }
  }
  static unsigned char* blocks[BLOCKS];
  for (int i = 0; i < BLOCKS; ++i) {
    blocks[i] = malloc(BLOCK_SIZE);
    if (!blocks[i]) return 1;
    for (size_t j = 0; j < BLOCK_SIZE; ++j) blocks[i][j] = expected(i, j);
  }
  report("written");
  int wrong = count_wrong(blocks);
  report("read back under 32 MiB");
  if (polder_set_memory_limit && polder_set_memory_limit(0) != 0) return 1;
  wrong += count_wrong(blocks);
  report("read back without a limit");
  for (int i = 0; i < BLOCKS; ++i) free(blocks[i]);
  printf("wrong bytes: %d\n", wrong);
  return wrong != 0;
}
