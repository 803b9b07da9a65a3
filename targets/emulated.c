/* Calls one compiled kernel as a device would: arguments from a file, results into another.
 *
 * kernel ARGUMENTS RESULTS
 * ARGUMENTS: int64 count, then for each array int64 dtype code, bits, dimensions, extents, then its bytes.
 * RESULTS: the bytes of every array after the call, inputs included.
 * Exit status: 2 a file is unreadable, 3 the kernel raised, 4 it wrote beyond an array.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

enum { GUARD = 1024, MOST = 16, TASKS = 2 };

int32_t __tvm_ffi_main(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result);

/* What TVM's runtime has for kernels. Where one is used, its object file has a pointer to be filled. */
typedef struct { void *sync; int32_t tasks; } ParallelEnv;
typedef int (*ParallelTask)(int id, ParallelEnv *env, void *data);

static void *allocate(int kind, int device, uint64_t bytes, int code, int bits) {
  (void)kind, (void)device, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static int release(int kind, int device, void *memory) {
  (void)kind, (void)device;
  free(memory);
  return 0;
}
static int launch(ParallelTask task, void *data, int tasks) { /* one after the other */
  ParallelEnv env = {NULL, tasks ? tasks : TASKS};
  for (int i = 0; i < env.tasks; ++i) {
    int failed = task(i, &env, data);
    if (failed) return failed;
  }
  return 0;
}
__attribute__((weak)) void *__TVMBackendAllocWorkspace;
__attribute__((weak)) void *__TVMBackendFreeWorkspace;
__attribute__((weak)) void *__TVMBackendParallelLaunch;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; ++i) fputs(parts[i], stderr);
}
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) {
  fprintf(stderr, "%s: %s", kind, text);
}

static int64_t number(FILE *file) {
  int64_t value;
  if (fread(&value, sizeof value, 1, file) != 1) exit(2);
  return value;
}

int main(int argc, char **argv) {
  FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
  if (!file) return 2;
  static int64_t extents[MOST][MOST];
  static DLTensor tensors[MOST];
  static TVMFFIAny args[MOST];
  uint8_t *memory[MOST];
  size_t sizes[MOST];
  int64_t count = number(file);
  if (count > MOST) return 2;
  for (int i = 0; i < count; ++i) {
    DLTensor *t = &tensors[i];
    t->device.device_type = kDLCPU;
    t->dtype.code = (uint8_t)number(file);
    t->dtype.bits = (uint8_t)number(file);
    t->dtype.lanes = 1;
    t->ndim = (int32_t)number(file);
    if (t->ndim > MOST) return 2;
    sizes[i] = t->dtype.bits / 8;
    for (int d = 0; d < t->ndim; ++d) sizes[i] *= (size_t)(extents[i][d] = number(file));
    memory[i] = allocate(0, 0, sizes[i] + 2 * GUARD, 0, 0);
    memset(memory[i], 0xFF, sizes[i] + 2 * GUARD);
    if (fread(memory[i] + GUARD, 1, sizes[i], file) != sizes[i]) return 2;
    t->shape = extents[i];
    t->data = memory[i] + GUARD;
    args[i].type_index = kTVMFFIDLTensorPtr;
    args[i].v_ptr = t;
  }
  fclose(file);
  __TVMBackendAllocWorkspace = (void *)allocate;
  __TVMBackendFreeWorkspace = (void *)release;
  __TVMBackendParallelLaunch = (void *)launch;
  TVMFFIAny result = {0};
  if (__tvm_ffi_main(NULL, args, (int32_t)count, &result)) return 3;
  file = fopen(argv[2], "wb");
  if (!file) return 2;
  for (int i = 0; i < count; ++i) {
    for (size_t b = 0; b < GUARD; ++b)
      if (memory[i][b] != 0xFF || memory[i][GUARD + sizes[i] + b] != 0xFF) return 4;
    if (fwrite(memory[i] + GUARD, 1, sizes[i], file) != sizes[i]) return 2;
  }
  return fclose(file) ? 2 : 0;
}
