#include "system/setup_lock.h"

#include <pthread.h>

namespace fa3 {
namespace {

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void lock() { pthread_mutex_lock(&mutex); }
void unlock() { pthread_mutex_unlock(&mutex); }

// Another thread may hold the lock during a fork; without these handlers the child would deadlock.
__attribute__((constructor)) void survive_fork() { pthread_atfork(lock, unlock, unlock); }

}  // namespace

SetupLock::SetupLock() { lock(); }
SetupLock::~SetupLock() { unlock(); }

}  // namespace fa3
