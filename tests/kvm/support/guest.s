# Macros that guests share. A guest sends bytes of its memory, and the test on the host decodes them.
.ifndef guest_macros
.set guest_macros, 1

# Sends `size` bytes at guest address `address` to the serial port.
.macro send address, size
    mov esi, \address
    mov ecx, \size
    mov edx, 0x3f8
    rep outsb
.endm

# Sends text.
.macro say text
    jmp .Lsay\@
.Ltext\@:
    .asciz "\text"
.Lsay\@:
    lea rsi, [rip + .Ltext\@]
    mov edx, 0x3f8
    lodsb
.Lnext\@:
    out dx, al
    lodsb
    test al, al
    jnz .Lnext\@
.endm

# ACPI 6.4 section 4.8.3.7: sleep type 5 and the enable bit, to the sleep control register.
.macro power_off
    mov edx, 0x600
    mov al, 0x34
    out dx, al
.Lpowered_off\@:
    jmp .Lpowered_off\@
.endm

# The keyboard controller's command to pulse the reset line.
.macro reset
    mov al, 0xfe
    out 0x64, al
.Lreset\@:
    jmp .Lreset\@
.endm

# Asks for input: the RTS pin of the serial port, without which nothing is sent.
.macro request_to_send
    mov edx, 0x3fc
    mov al, 0x0b
    out dx, al
.endm

# Sends back the next ebx bytes of input, polling for them.
.macro echo_input
.Lecho\@:
    mov edx, 0x3fd
    in al, dx
    test al, 1
    jz .Lecho\@
    mov edx, 0x3f8
    in al, dx
    out dx, al
    dec ebx
    jnz .Lecho\@
.endm

# The next random number (xorshift) in r8, which holds the seed; uses rax.
.macro random
    mov rax, r8
    shl rax, 13
    xor r8, rax
    mov rax, r8
    shr rax, 7
    xor r8, rax
    mov rax, r8
    shl rax, 17
    xor r8, rax
.endm

# Sends every interrupt to `handler`, the vector on top of the stack; the table is at 0x200000.
.macro catch_interrupts handler
    lea rax, [rip + .Lstubs\@]
    mov edi, 0x200000
    mov ecx, 256
.Lgate\@:
    mov [rdi], ax
    mov word ptr [rdi + 2], 0x10
    mov word ptr [rdi + 4], 0x8e00
    mov rdx, rax
    shr rdx, 16
    mov [rdi + 6], dx
    mov qword ptr [rdi + 8], 0
    add rax, 16
    add rdi, 16
    dec ecx
    jnz .Lgate\@
    mov word ptr [0x201000], 4095
    mov qword ptr [0x201002], 0x200000
    lidt [0x201000]
    jmp .Lcaught\@
    .balign 16
.Lstubs\@:
    .set guest_vector, 0
    .rept 256
    .byte 0x68
    .long guest_vector
    jmp \handler
    .balign 16
    .set guest_vector, guest_vector + 1
    .endr
.Lcaught\@:
.endm

# Enables the local APIC, and masks the PICs, which get every line that the IO-APIC gets.
.macro enable_local_apic
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov edi, 0xfee000f0
    mov dword ptr [rdi], 0x1ff
.endm

# Routes an IO-APIC input to a vector of the first processor, edge-triggered.
.macro route input, vector
    mov edi, 0xfec00000
    mov dword ptr [rdi], 0x10 + 2 * \input
    mov dword ptr [rdi + 0x10], \vector
    mov dword ptr [rdi], 0x11 + 2 * \input
    mov dword ptr [rdi + 0x10], 0
.endm

.macro end_of_interrupt
    mov edi, 0xfee000b0
    mov dword ptr [rdi], 0
.endm

# virtio 1.2 section 3.1.1 up to FEATURES_OK, for the first disk, whose window stays in rbx.
.macro negotiate_disk
    mov ebx, 0xd0000000
    mov dword ptr [rbx + 0x70], 0
    mov dword ptr [rbx + 0x70], 1
    mov dword ptr [rbx + 0x70], 3
    mov dword ptr [rbx + 0x24], 0
    mov dword ptr [rbx + 0x20], 0
    mov dword ptr [rbx + 0x24], 1
    mov dword ptr [rbx + 0x20], 1
    mov dword ptr [rbx + 0x70], 11
.endm

# Makes a queue ready. Addresses and size are at 0x306000, where the host put them; the rings lie `beyond` them.
.macro set_up_queue index, beyond
    mov dword ptr [rbx + 0x30], \index
    mov eax, [0x306018]
    mov [rbx + 0x38], eax
    mov eax, [0x306000]
    mov [rbx + 0x80], eax
    mov eax, [0x306004]
    mov [rbx + 0x84], eax
    mov eax, [0x306008]
    add eax, \beyond
    mov [rbx + 0x90], eax
    mov eax, [0x30600c]
    mov [rbx + 0x94], eax
    mov eax, [0x306010]
    add eax, \beyond
    mov [rbx + 0xa0], eax
    mov eax, [0x306014]
    mov [rbx + 0xa4], eax
    mov dword ptr [rbx + 0x44], 1
.endm

.macro driver_ok
    mov dword ptr [rbx + 0x70], 15
.endm

# All of it for a disk with one queue.
.macro start_disk
    negotiate_disk
    set_up_queue 0, 0
    driver_ok
.endm

# Starts a disk with a queue whose descriptors are nowhere.
.macro break_disk
    negotiate_disk
    mov dword ptr [rbx + 0x30], 0
    mov dword ptr [rbx + 0x38], 8
    mov dword ptr [rbx + 0x84], 0x7fffffff
    mov dword ptr [rbx + 0x44], 1
    driver_ok
.endm

.endif
