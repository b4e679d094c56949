// Made by the tests of cuda-green-queue from the types of layout.rs; a run of them with BLESS=1 writes it anew.
// The check of the compiled kernels compiles it with the header.
#include "cuda_green_queue.cuh"
using namespace cuda_green;
#ifdef __CUDACC_RTC__
// NVRTC has no offsetof.
#define OFFSET(type, field) __INTADDR__(&((type*)0)->field)
#else
#define OFFSET(type, field) __builtin_offsetof(type, field)
#endif
static_assert(sizeof(Queue) == 64 && alignof(Queue) == 8);
static_assert(OFFSET(Queue, magic) == 0);
static_assert(OFFSET(Queue, slots) == 8);
static_assert(OFFSET(Queue, tails) == 16);
static_assert(OFFSET(Queue, answers) == 24);
static_assert(OFFSET(Queue, rings) == 32);
static_assert(OFFSET(Queue, futures) == 40);
static_assert(OFFSET(Queue, version) == 48);
static_assert(OFFSET(Queue, future_count) == 52);
static_assert(OFFSET(Queue, lanes) == 56);
static_assert(OFFSET(Queue, priorities) == 58);
static_assert(OFFSET(Queue, depth_log2) == 60);
static_assert(OFFSET(Queue, slot_log2) == 61);
static_assert(OFFSET(Queue, answer_log2) == 62);
static_assert(OFFSET(Queue, flags) == 63);
static_assert(sizeof(Inbox) == 64 && alignof(Inbox) == 8);
static_assert(OFFSET(Inbox, magic) == 0);
static_assert(OFFSET(Inbox, slots) == 8);
static_assert(OFFSET(Inbox, tails) == 16);
static_assert(OFFSET(Inbox, answers) == 24);
static_assert(OFFSET(Inbox, controls) == 32);
static_assert(OFFSET(Inbox, positions) == 40);
static_assert(OFFSET(Inbox, version) == 48);
static_assert(OFFSET(Inbox, future_count) == 52);
static_assert(OFFSET(Inbox, lanes) == 56);
static_assert(OFFSET(Inbox, priorities) == 58);
static_assert(OFFSET(Inbox, depth_log2) == 60);
static_assert(OFFSET(Inbox, slot_log2) == 61);
static_assert(OFFSET(Inbox, answer_log2) == 62);
static_assert(OFFSET(Inbox, flags) == 63);
static_assert(sizeof(RingState) == 512 && alignof(RingState) == 8);
static_assert(OFFSET(RingState, credits) == 0);
static_assert(OFFSET(RingState, head) == 128);
static_assert(OFFSET(RingState, seen_tail) == 256);
static_assert(OFFSET(RingState, refilling) == 264);
static_assert(OFFSET(RingState, refused) == 384);
static_assert(sizeof(InboxPosition) == 128 && alignof(InboxPosition) == 8);
static_assert(OFFSET(InboxPosition, position) == 0);
static_assert(QUEUE_MAGIC == 0x3145554555514743);
static_assert(INBOX_MAGIC == 0x31584f424e494743);
static_assert(VERSION == 0x1);
static_assert(LINE == 0x80);
static_assert(SLOT_HEADER == 0x10);
static_assert(ANSWER_HEADER == 0x8);
static_assert(INBOX_HEADER_WORDS == 0x3);
static_assert(NO_FUTURE == 0xffffffff);
static_assert(CLOSED == 0x8000000000000000);
static_assert(KERNEL_TO_KERNEL == 0x1);
static_assert(LEAVE == 0x1);
static_assert(FINISH == 0x2);
static_assert(RUNNING == 0x1);
static_assert(MAX_PRIORITIES == 0x10);
static_assert(MAX_PAYLOAD == 0x7ff0);
static_assert(MAX_OUTPUT == 0x7ff8);
static_assert(u32(Status::Done) == 0x1);
static_assert(u32(Status::Failed) == 0x2);
static_assert(u32(Status::Panicked) == 0x3);
static_assert(u32(Status::UnknownMethod) == 0x4);
static_assert(u32(Status::BadPayload) == 0x5);
static_assert(u32(Status::Closed) == 0x6);
