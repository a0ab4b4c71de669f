/* Runs a generated model behind the serial protocol of protocol.py, on QEMU's MPS2 and MPS3 boards. */
#include <stdint.h>
#include <string.h>
#include "model.h"
#include "ports.h"

#define REG(address) (*(volatile uint32_t *)(address))
#define STACK_PAINT 0xdeadbeefu

extern uint32_t data_load, data_start, data_end, bss_start, bss_end, stack_top;

static int8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
static volatile uint32_t wraps;
static uint32_t crc;

static uint8_t get(void)
{
    while ((REG(UART + 4) & 2u) == 0) {
    }
    return (uint8_t)REG(UART);
}

/* CRC-32 of IEEE 802.3, bit by bit. */
static void add_to_crc(uint8_t byte)
{
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++) {
        crc = (crc >> 1) ^ ((crc & 1u) ? 0xedb88320u : 0u);
    }
}

static uint8_t get_counted(void)
{
    const uint8_t byte = get();
    add_to_crc(byte);
    return byte;
}

static void put(uint8_t byte)
{
    while (REG(UART + 4) & 1u) {
    }
    add_to_crc(byte);
    REG(UART) = byte;
}

static void put_word(uint32_t word)
{
    for (int shift = 0; shift < 32; shift += 8) {
        put((uint8_t)(word >> shift));
    }
}

static void begin(uint8_t kind, uint32_t bytes)
{
    put(0xa5);
    put(0x5a);
    crc = 0xffffffffu;
    put(kind);
    put_word(bytes);
}

static void end(void) { put_word(~crc); }

static uint32_t word_of(uint8_t (*from)(void))
{
    uint32_t word = 0;
    for (int shift = 0; shift < 32; shift += 8) {
        word |= (uint32_t)from() << shift;
    }
    return word;
}

static uint32_t now(void)
{
    uint32_t before, ticks;
    do {
        before = wraps;
        ticks = REG(0xE000E018u);
    } while (before != wraps);
    return (before << 24) + (0xffffffu - ticks);
}

/* SysTick from its top, so that it wraps at the same instruction of every run. */
static void restart(void)
{
    REG(0xE000E018u) = 0;
    while (REG(0xE000E018u) == 0) {
    }
    wraps = 0;
}

static void run(void)
{
    uint32_t *const limit = &bss_end;
    uint32_t *const here = (uint32_t *)__builtin_frame_address(0) - 64;
    for (uint32_t *word = limit; word < here; word++) {
        *word = STACK_PAINT;
    }
    restart();
    const uint32_t start = now();
    model_run(arena);
    const uint32_t ticks = now() - start;
    uint32_t *used = limit;
    while (*used == STACK_PAINT) {
        used++;
    }
    begin('r', 8 + OUTPUT_BYTES);
    put_word(ticks);
    put_word((uint32_t)((uint8_t *)&stack_top - (uint8_t *)used));
    for (uint32_t port = 0; port < OUTPUTS; port++) {
        for (uint32_t i = 0; i < outputs[port].bytes; i++) {
            put((uint8_t)arena[outputs[port].offset + i]);
        }
    }
    end();
}

static void info(void)
{
    begin('i', 64 + 12);
    for (int i = 0; i < 64; i++) {
        put((uint8_t)MODEL_SHA256[i]);
    }
    put_word(INPUT_BYTES);
    put_word(OUTPUT_BYTES);
    put_word(MODEL_ARENA_BYTES);
    end();
}

static void quit(void)
{
    register uint32_t operation __asm("r0") = 0x18, reason __asm("r1") = 0x20026;
    __asm volatile("bkpt 0xab" ::"r"(operation), "r"(reason));
}

static void refuse(uint8_t reason)
{
    begin('n', 1);
    put(reason);
    end();
}

/* One frame: a5 5a, kind, bytes (u32), payload, CRC-32 of kind to payload. Anything else is skipped. */
static void serve(void)
{
    uint8_t previous = 0, byte = 0;
    while (!(previous == 0xa5 && byte == 0x5a)) {
        previous = byte;
        byte = get();
    }
    crc = 0xffffffffu;
    const uint8_t kind = get_counted();
    const uint32_t bytes = word_of(get_counted);
    if ((kind == 'R' && bytes != INPUT_BYTES) || (kind != 'R' && bytes != 0)) {
        refuse('s');
        return;
    }
    for (uint32_t port = 0; kind == 'R' && port < INPUTS; port++) {
        for (uint32_t i = 0; i < inputs[port].bytes; i++) {
            arena[inputs[port].offset + i] = (int8_t)get_counted();
        }
    }
    const uint32_t computed = ~crc;
    if (word_of(get) != computed) {
        refuse('c');
    } else if (kind == 'I') {
        info();
    } else if (kind == 'R') {
        run();
    } else if (kind == 'Q') {
        quit();
    } else {
        refuse('k');
    }
}

static void systick(void) { wraps++; }

static void fault(void)
{
    refuse('f');
    quit();
    for (;;) {
    }
}

void reset(void);
void reset(void)
{
    REG(0xE000ED88u) |= 0xFu << 20; /* floating point and vector unit on */
    __asm volatile("dsb\n isb");
    memcpy(&data_start, &data_load, (size_t)((uint8_t *)&data_end - (uint8_t *)&data_start));
    memset(&bss_start, 0, (size_t)((uint8_t *)&bss_end - (uint8_t *)&bss_start));
    REG(UART + 16) = 16;
    REG(UART + 8) = 3;
    REG(0xE000E014u) = 0xffffffu; /* SysTick counts down from here, interrupts when it wraps */
    REG(0xE000E018u) = 0;
    REG(0xE000E010u) = 7;
    for (;;) {
        serve();
    }
}

typedef void (*handler)(void);
__attribute__((section(".vectors"), used)) static const handler vectors[16] = {
    (handler)&stack_top, reset, fault, fault, fault, fault, fault, fault,
    fault, fault, fault, fault, fault, fault, fault, systick};
