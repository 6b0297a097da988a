/* A C program that loads a C++ plug-in with RTLD_LOCAL. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  void* plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!plugin) {
    fprintf(stderr, "%s\n", dlerror());
    return 3;
  }
  int (*use_plugin)(void);
  *(void**)&use_plugin = dlsym(plugin, "use_plugin");
  printf("%d\n", use_plugin());
  dlclose(plugin);
  return 0;
}
