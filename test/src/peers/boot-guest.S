/*
 * Boot guest: counts in every page of a range for ever, to prove that it still runs.
 *
 * Loaded by the firmware at 0x7c00 as a boot sector. It enters protected mode
 * with flat segments, zeroes the counter at the start of each page of its range,
 * and then sweeps: one increment per page, page after page, sweep after sweep.
 * So at any instant the pages before the current one hold sweep + 1 and the others
 * sweep; boot-guest.ts checks that, and patches `parameters`.
 *
 * QEMU 7.2 under TCG loses writes to a page whose TLB entry outlives a sync of
 * the dirty bitmap (mended in 9.0: physmem, "Fix migration dirty bitmap coherency"):
 * a page written all the time is then not sent again, to whatever destination.
 * So the guest drops the TLB at every page, and no write goes unseen for longer.
 *
 * After each sweep it prints how many it has done to the first serial port, eight
 * hexadecimal digits and a line feed; without such a port it prints to nobody.
 *
 * State, at 0x1000, where no firmware writes:
 *   +0 magic, once counting begins   +4 sweeps done   +8 pages counted in this one
 */
        .intel_syntax noprefix
        .set    STATE, 0x1000
        .set    MAGIC, 0x5747464d
        .set    STACK, 0x7000
        .set    TIMER_DIVISOR, 1193             /* 1 193 182 Hz / 1193: a thousand ticks a second */
        .set    SERIAL_DATA, 0x3f8
        .set    SERIAL_STATUS, 0x3fd
        .set    TIMER_VECTOR, 8                 /* where the firmware has put IRQ 0 */

        .code16
        .globl  _start
_start:
        cli
        xor     ax, ax
        mov     ds, ax
        in      al, 0x92                        /* A20, else every odd megabyte is the even one below */
        or      al, 2
        and     al, 0xfe                        /* bit 0 would reset the machine */
        out     0x92, al
        lgdt    [gdt_pointer]
        lidt    [idt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        ljmp    8:protected

        .code32
protected:
        mov     ax, 16
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, STACK
        mov     al, 0x34                        /* timer 0: rate generator, low byte then high */
        out     0x43, al
        mov     al, TIMER_DIVISOR & 0xff
        out     0x40, al
        mov     al, TIMER_DIVISOR >> 8
        out     0x40, al
        mov     al, 0xfe                        /* no interrupt but the timer's */
        out     0x21, al
        mov     al, 0xff
        out     0xa1, al

        xor     eax, eax
        mov     edi, [first_byte]
        mov     ecx, [page_count]
clear:
        mov     [edi], eax
        add     edi, [stride_bytes]
        dec     ecx
        jnz     clear
        mov     [STATE + 4], eax
        mov     [STATE + 8], eax
        mov     dword ptr [STATE], MAGIC

        mov     ebx, [pages_per_tick]
sweep:
        mov     edi, [first_byte]
        xor     ecx, ecx
page:
        mov     eax, cr0                        /* turning CR0.WP over makes TCG forget its TLB */
        xor     eax, 0x10000
        mov     cr0, eax
        inc     dword ptr [edi]
        add     edi, [stride_bytes]
        inc     ecx
        mov     [STATE + 8], ecx
        dec     ebx
        jnz     next                            /* from 0, which means no pause, it gets there once in 2^32 pages */
        mov     ebx, [pages_per_tick]
        sti
        hlt
        cli
next:
        cmp     ecx, [page_count]
        jb      page
        inc     dword ptr [STATE + 4]
        mov     dword ptr [STATE + 8], 0

        mov     ebp, [STATE + 4]
        mov     ecx, 8
digit:
        rol     ebp, 4
        mov     eax, ebp
        and     al, 15
        cmp     al, 10
        jb      decimal
        add     al, 'a' - '0' - 10
decimal:
        add     al, '0'
        call    print
        dec     ecx
        jnz     digit
        mov     al, '\n'
        call    print
        jmp     sweep

print:
        mov     ah, al
        mov     edx, SERIAL_STATUS
busy:
        in      al, dx                          /* no port answers 0xff: never busy */
        test    al, 0x20
        jz      busy
        mov     al, ah
        mov     edx, SERIAL_DATA
        out     dx, al
        ret

timer:
        push    eax
        mov     al, 0x20
        out     0x20, al
        pop     eax
        iret

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9a000000ffff              /* 8: code, 0 to 4 GiB */
        .quad   0x00cf92000000ffff              /* 16: data, 0 to 4 GiB */
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
timer_gate:
        .word   timer
        .word   8
        .word   0x8e00
        .word   0
idt_pointer:
        .word   TIMER_VECTOR * 8 + 7
        .long   timer_gate - TIMER_VECTOR * 8   /* the entries below are code: nothing but the timer may interrupt */

        .org    0x1a0
parameters:
first_byte:
        .long   0
stride_bytes:
        .long   0
page_count:
        .long   0
pages_per_tick:
        .long   0

        .org    0x1fe
        .word   0xaa55
