/* A library that answers like a driver of 12.4, except for the symbols whose macros are defined. */
#include <string.h>
#include <stdio.h>
__attribute__((constructor)) static void begin(void) { fputs("began\n", stderr); }
int cuDriverGetVersion(int *version) { fputs("asked\n", stderr); *version = 12040; return 0; }
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
