//! Notices that the kernel could not unpack all of its initrd. The kernel prints that once, early in the boot, and at the end
//! of the run that line may no longer be in the part of the output that is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::console;
use crate::devices::sink::{Sink, watched};

/// What Linux says when it has no older kind of initrd to take the file for (init/initramfs.c).
const FAILED: &str = "Initramfs unpacking failed: ";
/// What it says otherwise, with the reason in parentheses.
const OLDER_KIND: (&str, &str) = ("rootfs image is not initramfs (", "); looks like an initrd");

/// The reason when a file did not fit into guest memory.
pub const NO_ROOM: &str = "write error";

/// Bytes of a line that are looked at.
const LINE_MAX: usize = 256;
/// Bytes of output that are looked at: far more than a kernel prints before it unpacks its initrd. What a guest prints
/// later, such as a log of another guest, is not about this initrd.
const OUTPUT_MAX: usize = 1 << 20;

/// Why the initrd could not be unpacked, if the line says that.
pub fn reason(line: &str) -> Option<&str> {
    let (begin, end) = OLDER_KIND;
    let (_, reason) = line.split_once(FAILED).or_else(|| {
        let (before, rest) = line.split_once(begin)?;
        Some((before, rest.split_once(end)?.0))
    })?;
    let reason = reason.trim();
    (!reason.is_empty()).then_some(reason)
}

/// Looks at the output for the reason for which the initrd could not be unpacked, and keeps it.
#[derive(Default)]
pub struct InitrdWatch(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Bytes of output so far.
    count: usize,
    /// The start of the line that is being printed.
    line: Vec<u8>,
    reason: Option<String>,
}

impl InitrdWatch {
    /// Wraps the console's sink so that its lines are looked at.
    pub fn watch(self: &Arc<Self>, console: Arc<dyn Sink>) -> Arc<dyn Sink> {
        let watch = self.clone();
        watched(console, move |byte| watch.look(byte))
    }

    /// Looks at the next byte of output.
    pub fn look(&self, byte: u8) {
        self.lock().take(byte);
    }

    /// The first reason that the guest gave, safe to show.
    pub fn reason(&self) -> Option<String> {
        self.lock().reason.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn take(&mut self, byte: u8) {
        if self.reason.is_some() || self.count == OUTPUT_MAX {
            return;
        }
        self.count += 1;
        if byte != b'\n' {
            if self.line.len() < LINE_MAX {
                self.line.push(byte);
            }
            return;
        }
        let line = console::clean(&String::from_utf8_lossy(&self.line));
        // An initrd of the older kind is no failure, unless there was no room for its files.
        let failed = |reason: &&str| line.contains(FAILED) || *reason == NO_ROOM;
        self.reason = reason(&line).filter(failed).map(str::to_owned);
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(output: &[u8]) -> Option<String> {
        let mut seen = Seen::default();
        output.iter().for_each(|&byte| seen.take(byte));
        seen.reason
    }

    #[test]
    fn the_reason_is_kept_however_much_follows() {
        let mut output =
            b"[    0.1] Unpacking initramfs...\r\n[    0.2] Initramfs unpacking failed: write error\r\n"
                .to_vec();
        output.extend(b"Initramfs unpacking failed: another\n");
        output.extend(b"a line of the guest's\r\n".repeat(1000));
        assert_eq!(seen(&output).as_deref(), Some("write error"));
    }

    #[test]
    fn a_kernel_with_ram_disks_says_it_in_other_words() {
        let output = b"[    0.2] rootfs image is not initramfs (write error); looks like an initrd\n";
        assert_eq!(seen(output).as_deref(), Some("write error"));
    }

    #[test]
    fn other_lines_give_no_reason() {
        for line in [
            "Unpacking initramfs...\n",
            "Initramfs unpacking failed: \n",
            "rootfs image is not initramfs (write error\n",
            "Initramfs unpacking failed: cut off",
            "rootfs image is not initramfs (no cpio magic); looks like an initrd\n",
        ] {
            assert_eq!(seen(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn what_is_printed_long_after_the_boot_is_not_about_the_initrd() {
        let mut output = b"x\n".repeat(OUTPUT_MAX / 2);
        output.extend(b"Initramfs unpacking failed: write error\n");
        assert_eq!(seen(&output), None);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut seen = Seen::default();
        (0..OUTPUT_MAX).for_each(|_| seen.take(b'x'));
        assert_eq!(seen.line.len(), LINE_MAX);
    }

    #[test]
    fn the_reason_is_safe_to_show() {
        let output = b"Initramfs unpacking failed: \x1b]0;title\x07\x1b[31mred\n";
        assert_eq!(seen(output).as_deref(), Some("red"));
    }
}
