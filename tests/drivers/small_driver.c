/* A library that answers like a driver of 12.4, except for what the macros that are defined say. */
#include <string.h>
#include <stdio.h>
#ifndef VERSION
#define VERSION 12040
#endif
#ifndef ANSWER
#define ANSWER 0
#endif
#ifdef THREAD
/* As drivers do: a thread that runs code of the library for as long as the process lives. */
#include <pthread.h>
#include <unistd.h>
static void *work(void *none) { for (;;) usleep(100); return none; }
static void start(void) { pthread_t thread; pthread_create(&thread, 0, work, 0); }
#else
static void start(void) {}
#endif
__attribute__((constructor)) static void begin(void) { fputs("began\n", stderr); }
int cuDriverGetVersion(int *version) { start(); fputs("asked\n", stderr); *version = VERSION; return ANSWER; }
int cuInit(unsigned flags) { return flags ? 1 : 100; }
int cuGreenCtxCreate(void) { return 0; }
#ifdef RESOLVER
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags, unsigned *status) {
    *address = 0;
    *status = 1;
    if (!strcmp(name, "cuInit")) *address = (void *)cuInit;
    if (!strcmp(name, "cuGreenCtxCreate")) *address = (void *)cuGreenCtxCreate;
    #ifndef WITHOUT_VERSION
    if (!strcmp(name, "cuDriverGetVersion")) *address = (void *)cuDriverGetVersion;
    #endif
    if (!strcmp(name, "cuGreenCtxDestroy")) { *status = 2; return 0; }
    if (*address) { *status = 0; return 0; }
    return 500;
}
#endif
