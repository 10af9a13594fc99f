//! What the built-in guest's init says before it gives up and the kernel panics.

use super::exit_code;

/// How it begins a line about what went wrong (guest-images/init/src/say.rs).
const BEGINNING: &str = "coracle-init: ";

/// The last thing that it said went wrong.
pub struct Complaint<'a> {
    pub text: &'a str,
    /// None for a complaint that calls for nothing more than its text.
    pub kind: Option<&'static Kind>,
}

/// A complaint about what Linux itself panics about when it has no initrd.
pub struct Kind {
    /// What is in the text of every such complaint (guest-images/init/src/root.rs and supervise.rs).
    words: &'static str,
    /// The same as for Linux's own panic.
    pub exit_code: u8,
    /// It in half a sentence.
    pub summary: &'static str,
    pub next: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind {
        words: "cannot mount the root device",
        exit_code: exit_code::NO_ROOT,
        summary: "the root file system cannot be mounted",
        next: "a disk with an ext4 file system in --cmdline root=, or a kernel with the file system of this one",
    },
    Kind {
        words: "there is no root device",
        exit_code: exit_code::NO_ROOT,
        summary: "no root device",
        next: "the name of a disk that is there in --cmdline root=, or the disk with --disk",
    },
    Kind {
        words: "the built-in guest knows root=",
        exit_code: exit_code::NO_ROOT,
        summary: "no root device",
        next: "one of these forms in --cmdline, for example root=/dev/vda",
    },
    Kind {
        words: "the root has none of",
        exit_code: exit_code::NO_INIT,
        summary: "no init that it can run",
        next: "a program at /sbin/init of the root, or a command: --cmdline 'root=... -- COMMAND'",
    },
    Kind {
        words: " as init: ",
        exit_code: exit_code::NO_INIT,
        summary: "no init that it can run",
        next: "the path of a program that the guest has in init=, with the dynamic loader that it names",
    },
];

impl<'a> Complaint<'a> {
    /// The last complaint in what the guest printed.
    pub fn last(lines: &'a [String]) -> Option<Self> {
        let text = lines.iter().rev().find_map(|line| line.strip_prefix(BEGINNING))?;
        let kind = KINDS.iter().find(|kind| text.contains(kind.words));
        Some(Self { text, kind })
    }
}
