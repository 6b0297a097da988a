/* A C program that links one of the libraries: which malloc it has, and that both families work beside each other. */
#include <polder/polder.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
  char* const theirs = malloc(1000);
  char* const ours = polder_malloc(1000);
  if (theirs == NULL || ours == NULL) return 3;
  memset(theirs, 1, 1000);
  memset(ours, 2, 1000);
  struct polder_statistics statistics = {.size = sizeof statistics};
  if (polder_get_statistics(&statistics) != 0) return 4;
  const uint64_t before = statistics.charged_bytes;
  char* const large = malloc(20000000);
  if (large == NULL) return 5;
  memset(large, 3, 20000000);
  if (polder_get_statistics(&statistics) != 0) return 6;
  printf("version %s, limit %zu, malloc is %s\n", polder_version(), polder_get_memory_limit(),
         statistics.charged_bytes >= before + 20000000 ? "replaced" : "libc's");
  for (int index = 0; index < 1000; ++index) {
    if (theirs[index] != 1 || ours[index] != 2) return 7;
  }
  free(large);
  free(theirs);
  polder_free(ours);
  return 0;
}
