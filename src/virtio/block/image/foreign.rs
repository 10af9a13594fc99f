//! Recognises files of other formats, which have to be converted before they can be disks.
//!
//! File systems, partition tables and ISO 9660 are not in the table, because a raw image can begin with one of them.

use std::path::{Path, PathBuf};

use crate::plain_text::shell_word;

/// How many bytes of a file's start are needed to recognise it.
pub const START: usize = 512;
/// How many bytes of its end are needed: some formats are a raw image with a footer.
pub const END: usize = 512;

/// A format that cannot be a disk as it is.
#[derive(Debug)]
pub struct Foreign {
    pub name: &'static str,
    place: Place,
    magic: &'static [u8],
    remedy: Remedy,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// This many bytes after the start of the file.
    Start(usize),
    /// This many bytes before its end.
    End(usize),
}

/// How a person makes a disk of such a file.
#[derive(Debug)]
enum Remedy {
    /// With `qemu-img convert`, which has this name for the format.
    Convert(&'static str),
    /// With a command that writes the unpacked file to its output.
    Unpack(&'static str),
    /// By taking an image out of it. The command lists what there is.
    List(&'static str),
    /// In another way, in words.
    Other(&'static str),
}

impl Remedy {
    /// What to type for the file at `path`.
    fn text(&self, path: &Path) -> String {
        let word = shell_word(path);
        match self {
            Self::Convert(format) => {
                let mut made = path.with_extension("qcow2");
                if made == path {
                    made.set_extension("converted.qcow2");
                }
                let made = shell_word(&made);
                format!("convert it: qemu-img convert -f {format} -O qcow2 {word} {made}")
            }
            Self::Unpack(command) => {
                format!("unpack it: {command} {word} >{}", shell_word(&unpacked(path)))
            }
            Self::List(command) => format!("take the image out of it; what is in it says: {command} {word}"),
            Self::Other(text) => (*text).to_owned(),
        }
    }
}

/// The name of the unpacked file: `disk.img` for `disk.img.gz`. A name without such an ending becomes longer.
fn unpacked(path: &Path) -> PathBuf {
    let is_packed = path.extension().is_some_and(|extension| {
        PACKED_NAMES
            .iter()
            .any(|packed| extension.eq_ignore_ascii_case(packed))
    });
    match is_packed {
        true => path.with_extension(""),
        false => {
            let mut name = path.as_os_str().to_owned();
            name.push(".unpacked");
            name.into()
        }
    }
}

const PACKED_NAMES: [&str; 9] = ["gz", "xz", "zst", "bz2", "lz4", "lz", "lzo", "z", "lzma"];

/// Finds the format of a file by its first bytes, `start`, and its last bytes, `end`.
pub fn recognise(start: &[u8], end: &[u8]) -> Option<&'static Foreign> {
    FORMATS.iter().find(|format| {
        let from = match format.place {
            Place::Start(offset) => start.get(offset..),
            Place::End(offset) => end.len().checked_sub(offset).and_then(|offset| end.get(offset..)),
        };
        from.is_some_and(|bytes| bytes.starts_with(format.magic))
    })
}

impl Foreign {
    /// What to do with the file at `path`, which has this format. A guest can write the bytes of such a format to its raw
    /// disk, and programs that convert images open the files that these bytes name.
    pub fn advice(&self, path: &Path) -> String {
        format!(
            "{}; if it is a raw disk that a guest has written, do not do that, since its bytes can name any file of this \
             host, but add ,format=raw",
            self.remedy.text(path)
        )
    }
}

const fn image(name: &'static str, offset: usize, magic: &'static [u8], format: &'static str) -> Foreign {
    Foreign {
        name,
        place: Place::Start(offset),
        magic,
        remedy: Remedy::Convert(format),
    }
}

const fn packed(name: &'static str, magic: &'static [u8], command: &'static str) -> Foreign {
    Foreign {
        name,
        place: Place::Start(0),
        magic,
        remedy: Remedy::Unpack(command),
    }
}

const fn archive(name: &'static str, offset: usize, magic: &'static [u8], command: &'static str) -> Foreign {
    Foreign {
        name,
        place: Place::Start(offset),
        magic,
        remedy: Remedy::List(command),
    }
}

const fn other(name: &'static str, magic: &'static [u8], remedy: &'static str) -> Foreign {
    Foreign {
        name,
        place: Place::Start(0),
        magic,
        remedy: Remedy::Other(remedy),
    }
}

const fn ending(name: &'static str, magic: &'static [u8], format: &'static str) -> Foreign {
    Foreign {
        name,
        place: Place::End(512),
        magic,
        remedy: Remedy::Convert(format),
    }
}

const FORMATS: &[Foreign] = &[
    image("a VMDK image", 0, b"KDMV", "vmdk"),
    image("a VMDK image of ESX", 0, b"COWD", "vmdk"),
    image(
        "the description of a VMDK image",
        0,
        b"# Disk DescriptorFile",
        "vmdk",
    ),
    image("a VDI image", 64, b"\x7f\x10\xda\xbe", "vdi"),
    image("a VHDX image", 0, b"vhdxfile", "vhdx"),
    image("a VHD image", 0, b"conectix", "vpc"),
    ending("a VHD image of fixed size", b"conectix", "vpc"),
    image("a QED image", 0, b"QED\0", "qed"),
    image("a Parallels image", 0, b"WithoutFreeSpace", "parallels"),
    image("a Parallels image", 0, b"WithouFreSpacExt", "parallels"),
    image("a Bochs image", 0, b"Bochs Virtual HD Image", "bochs"),
    image("a cloop image", 0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    ending("a DMG image", b"koly", "dmg"),
    other(
        "encrypted with LUKS",
        b"LUKS\xba\xbe",
        "let the guest unlock it: add ,format=raw, or unlock it here with cryptsetup open and give that device",
    ),
    other(
        "a sparse image of Android",
        b"\x3a\xff\x26\xed",
        "convert it with simg2img, which writes a raw image",
    ),
    other(
        "a copy-on-write file of User Mode Linux",
        b"MOOO",
        "merge it with the image under it: uml_moo writes a raw image",
    ),
    other(
        "an image of partclone",
        b"partclone-image",
        "restore it: partclone.restore -s FILE -o RAW -C",
    ),
    other(
        "an EWF image of a forensic program",
        b"EVF\x09\x0d\x0a\xff\x00",
        "export it: ewfexport -f raw FILE",
    ),
    other(
        "an image of Windows' setup",
        b"MSWIM\0\0\0",
        "unpack it onto a file system: wimlib-imagex apply",
    ),
    packed("packed with gzip", b"\x1f\x8b\x08", "gzip -dc"),
    packed("packed with compress", b"\x1f\x9d", "gzip -dc"),
    packed("packed with xz", b"\xfd7zXZ\0", "xz -dc"),
    packed("packed with zstd", b"\x28\xb5\x2f\xfd", "zstd -dc"),
    packed("packed with bzip2", b"BZh", "bzip2 -dc"),
    packed("packed with LZ4", b"\x04\x22\x4d\x18", "lz4 -dc"),
    packed("packed with LZ4", b"\x02\x21\x4c\x18", "lz4 -dc"),
    packed("packed with lzip", b"LZIP\x01", "lzip -dc"),
    packed("packed with lzop", b"\x89LZO\0\r\n\x1a\n", "lzop -dc"),
    archive("a tar archive", 257, b"ustar", "tar -tvf"),
    archive("a ZIP archive", 0, b"PK\x03\x04", "unzip -l"),
    archive("a 7z archive", 0, b"7z\xbc\xaf\x27\x1c", "7z l"),
    archive("a RAR archive", 0, b"Rar!\x1a\x07", "7z l"),
    archive("a cpio archive", 0, b"070701", "cpio -itv <"),
    archive("a cpio archive", 0, b"070702", "cpio -itv <"),
    archive("a cpio archive", 0, b"070707", "cpio -itv <"),
    archive("a package or ar archive", 0, b"!<arch>\n", "ar tv"),
    archive("an RPM package", 0, b"\xed\xab\xee\xdb", "rpm -qlp"),
    other(
        "an ELF file, which is a program or a kernel",
        b"\x7fELF",
        "a kernel is given with --kernel",
    ),
];

#[cfg(test)]
#[path = "foreign_test.rs"]
mod tests;
