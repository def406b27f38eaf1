/*
 * Stub: the code that the stopped thread runs, complete in itself.
 *
 * It opens a userfaultfd, closes it, puts back every register it used and jumps
 * to where the thread was. So it needs nobody to clean up after it: whoever set
 * the thread on it may die at any instruction, and the thread still comes home.
 * Between the two system calls the tracer, if it is there, takes a copy of the descriptor.
 *
 * It leaves the red zone below the stack pointer alone, and touches integer
 * registers only. A kernel that lacks userfaultfd answers with an error, and nothing is closed.
 */
#include "attach.h"

#if defined(__x86_64__)

/* 323 userfaultfd; 0x80801 is O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY; 3 close. */
__asm__("        .pushsection .rodata\n"
        "        .balign 8\n"
        "stub_begin:\n"
        "        lea     -128(%rsp), %rsp\n"
        "        pushfq\n"
        "        push    %rax\n"
        "        push    %rcx\n"
        "        push    %r11\n"
        "        push    %rdi\n"
        "        mov     $323, %eax\n"
        "        mov     $0x80801, %edi\n"
        "        syscall\n"
        "stub_opened:\n"
        "        test    %eax, %eax\n"
        "        js      1f\n"
        "        mov     %eax, %edi\n"
        "        mov     $3, %eax\n"
        "        syscall\n"
        "stub_closed:\n"
        "1:      pop     %rdi\n"
        "        pop     %r11\n"
        "        pop     %rcx\n"
        "        pop     %rax\n"
        "        popfq\n"
        "        lea     128(%rsp), %rsp\n"
        "        jmp     *stub_target(%rip)\n"
        "        .balign 8\n"
        "stub_target:\n"
        "        .quad   0\n"
        "stub_end:\n"
        "        .popsection\n");

extern const uint8_t stub_begin[], stub_opened[], stub_closed[], stub_target[], stub_end[];

struct stub stub_code(void) {
  return (struct stub){.code = stub_begin,
                       .bytes = (size_t)(stub_end - stub_begin),
                       .opened_at = (size_t)(stub_opened - stub_begin),
                       .closed_at = (size_t)(stub_closed - stub_begin),
                       .target_at = (size_t)(stub_target - stub_begin)};
}

#endif
