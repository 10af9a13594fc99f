use std::io::{Read, Write};

use proptest::prelude::*;

use super::{Algorithm, CheckedReader, CheckedWriter, Digest, Expected, Hasher};

fn expected(bytes: &[u8]) -> Expected {
    Expected {
        digest: Digest::of(bytes),
        size: Some(bytes.len() as u64),
    }
}

fn read(bytes: &[u8], expected: Expected) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    let read = CheckedReader::new(bytes, expected).read_to_end(&mut all);
    read.map(|_| all).map_err(|error| error.to_string())
}

fn write(bytes: &[u8], expected: Expected) -> Result<Vec<u8>, String> {
    let mut writer = CheckedWriter::new(Vec::new(), expected);
    writer.write_all(bytes).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())
}

#[test]
fn digests_are_those_of_the_standard() {
    let empty = Digest::of(b"").to_string();
    assert_eq!(
        empty,
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"abc");
    assert!(
        hasher
            .digest()
            .to_string()
            .starts_with("sha512:ddaf35a193617abacc417349ae204131")
    );
}

#[test]
fn only_a_whole_lower_case_digest_is_one() {
    let good = Digest::of(b"x").to_string();
    assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
    for bad in [
        "",
        ":",
        "sha256",
        "sha256:",
        "sha256:abc",
        &good.to_uppercase(),
        &good.replace("sha256:", "sha256:/"),
        &good.replace("sha256", "md5"),
        &good.replace("sha256", "sha512"),
        &format!("{good}0"),
        &format!(" {good}"),
        &format!("{good}\n"),
        &format!("sha256:../{}", &good[10..]),
    ] {
        assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_blob_that_is_short_or_long_or_another_is_refused_in_words() {
    for pass in [read, write] {
        assert_eq!(pass(b"blob", expected(b"blob")).unwrap(), b"blob");
        let error = pass(b"blo", expected(b"blob")).unwrap_err();
        assert!(error.contains("3 bytes instead of 4"), "{error}");
        let error = pass(b"blobs", expected(b"blob")).unwrap_err();
        assert!(error.contains("more than the 4 bytes"), "{error}");
        let error = pass(b"blab", expected(b"blob")).unwrap_err();
        assert!(error.contains("have the digest sha256:"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_digest_or_refused(text in "(sha256|sha512|.{0,8})[:]?([0-9a-f]{60,66}|.{0,70})") {
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text);
        }
    }

    #[test]
    fn a_reader_and_a_writer_agree(blob: Vec<u8>, other: Vec<u8>) {
        prop_assert_eq!(read(&blob, expected(&other)).is_ok(), blob == other);
        prop_assert_eq!(write(&blob, expected(&other)).is_ok(), blob == other);
    }
}
