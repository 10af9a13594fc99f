//! linux/kvm.h.

pub const CREATE_VM: u32 = 0x0000_ae01;
pub const CHECK_EXTENSION: u32 = 0x0000_ae03;
pub const GET_VCPU_MMAP_SIZE: u32 = 0x0000_ae04;
pub const GET_SUPPORTED_CPUID: u32 = 0xc008_ae05;
pub const CREATE_VCPU: u32 = 0x0000_ae41;
pub const SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
pub const SET_TSS_ADDR: u32 = 0x0000_ae47;
pub const SET_IDENTITY_MAP_ADDR: u32 = 0x4008_ae48;
pub const CREATE_IRQCHIP: u32 = 0x0000_ae60;
pub const IRQ_LINE: u32 = 0x4008_ae61;
pub const GET_IRQCHIP: u32 = 0xc208_ae62;
pub const CREATE_PIT2: u32 = 0x4040_ae77;
pub const IOEVENTFD: u32 = 0x4040_ae79;
pub const RUN: u32 = 0x0000_ae80;
pub const GET_REGS: u32 = 0x8090_ae81;
pub const SET_REGS: u32 = 0x4090_ae82;
pub const GET_SREGS: u32 = 0x8138_ae83;
pub const SET_SREGS: u32 = 0x4138_ae84;
pub const TRANSLATE: u32 = 0xc018_ae85;
pub const SET_MSRS: u32 = 0x4008_ae89;
pub const GET_LAPIC: u32 = 0x8400_ae8e;
pub const SET_CPUID2: u32 = 0x4008_ae90;
pub const GET_MP_STATE: u32 = 0x8004_ae98;
pub const ENABLE_CAP: u32 = 0x4068_aea3;
pub const KVMCLOCK_CTRL: u32 = 0x0000_aead;
pub const GET_STATS_FD: u32 = 0x0000_aece;

/// The byte of a request that says whose it is, and its value for KVM.
pub const TYPE: u32 = 0xff00;
pub const KVM: u32 = 0xae00;
