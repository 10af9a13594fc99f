//! Images of QEMU's own that the library does not read or must not write: what the refusal tells a person to type makes
//! an image of them that is used, with the same data.

use std::os::unix::fs::FileExt;

use super::test_image::*;
use super::*;

const SIZE: usize = 1 << 20;
/// Of incompatible features, in the header.
const FEATURES: u64 = 72;
const DIRTY: u64 = 1;
const CORRUPT: u64 = 2;

fn data() -> Vec<u8> {
    (0..SIZE)
        .map(|index| (index / 512 * 7 + index % 251) as u8)
        .collect()
}

/// The data, as QEMU writes it with these options.
fn convert(images: &Images, options: &str, more: &[&str]) -> PathBuf {
    let (raw, path) = (images.raw("data.raw", &data()), images.path("image"));
    let begin = ["convert", "-f", "raw", "-O", "qcow2", "-o", options];
    succeed(&[&begin, more, &[text(&raw), text(&path)]].concat());
    path
}

fn be64(path: &Path, place: u64) -> u64 {
    let mut bytes = [0; 8];
    let file = File::open(path).unwrap();
    file.read_exact_at(&mut bytes, place).unwrap();
    u64::from_be_bytes(bytes)
}

fn put(path: &Path, place: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, place).unwrap();
}

fn set_feature(path: &Path, bit: u64) {
    put(path, FEATURES, &(be64(path, FEATURES) | bit).to_be_bytes());
}

/// Types what stands behind the last colon, in the parentheses that end the refusal. Returns the image to use then.
fn follow(refusal: &str, image: &Path, new: &Path) -> PathBuf {
    let command = refusal.rsplit(": ").next().unwrap().strip_suffix(')').unwrap();
    let words = command.split(' ').map(|word| match word {
        "IMAGE" => text(image),
        "NEW" => text(new),
        word => word,
    });
    let words: Vec<_> = words.collect();
    assert_eq!(words[0], "qemu-img", "{refusal}");
    let output = qemu_img(&words[1..]);
    assert!(output.status.success(), "{refusal}: {output:?}");
    match words.contains(&text(new)) {
        true => new.into(),
        false => image.into(),
    }
}

type Case = (&'static str, fn(&Images) -> PathBuf);

const CASES: [Case; 8] = [
    ("something else than zlib", |images| {
        convert(images, "compression_type=zstd", &["-c"])
    }),
    ("subclusters", |images| convert(images, "extended_l2=on", &[])),
    ("another file", |images| {
        let other = images.path("other");
        convert(images, &format!("data_file={}", text(&other)), &[])
    }),
    ("not closed cleanly", |images| {
        let path = convert(images, "lazy_refcounts=on", &[]);
        // As a killed QEMU leaves it: data is there that nothing counts.
        let block = be64(&path, be64(&path, 48));
        put(&path, block + 8, &[0; 16]);
        set_feature(&path, DIRTY);
        path
    }),
    ("marked as corrupt", |images| {
        let path = convert(images, "compat=1.1", &[]);
        set_feature(&path, CORRUPT);
        path
    }),
    ("flags contradict", |images| {
        let path = convert(images, "compat=1.1", &[]);
        let l1 = be64(&path, 40);
        put(&path, l1, &(be64(&path, l1) & !(1 << 63)).to_be_bytes());
        path
    }),
    ("as free space", |images| {
        let path = convert(images, "compat=1.1", &[]);
        let block = be64(&path, be64(&path, 48));
        put(&path, block, &[0; 2]);
        path
    }),
    ("MiB of memory", |images| {
        // Tables of 2 MiB for each of the images under it.
        let base = convert(images, "cluster_size=2M", &[]);
        let mut below = text(&base).to_owned();
        for index in 0..3 {
            let name = format!("{index}.qcow2");
            below = text(&images.on(&name, "cluster_size=2M", &below, "qcow2", 100 << 40)).to_owned();
        }
        below.into()
    }),
];

#[test]
fn what_a_refusal_says_to_type_makes_an_image_that_is_used() {
    need_qemu_img();
    for (words, make) in CASES {
        let images = Images::new();
        let path = make(&images);
        let refusal = try_open(&disk(&path)).err().expect(words).to_string();
        assert!(refusal.contains(words), "{refusal}");
        if words.contains("MiB") {
            // It would work, and write tables for 100 TiB.
            assert!(refusal.contains(&format!("qemu-img convert -O qcow2 {} NEW", text(&path))));
            continue;
        }
        let used = follow(&refusal, &path, &images.path("new"));
        let image = open(&used);
        assert!(image.get(0, SIZE) == data(), "{words}");
        image.put(512, &[1; 512]).unwrap();
        drop(image);
        assert_clean(&used);
    }
}

#[test]
fn an_image_with_lazy_reference_counts_is_used_once_it_was_closed_cleanly() {
    need_qemu_img();
    let images = Images::new();
    let path = convert(&images, "lazy_refcounts=on", &[]);
    let image = open(&path);
    assert!(image.get(0, SIZE) == data());
    image.put(0, &[7; 65536]).unwrap();
    image.discard(131072, 65536).unwrap();
    drop(image);
    assert_clean(&path);
    assert!(images.contents(&path)[..65536] == [7; 65536]);
}
