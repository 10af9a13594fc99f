//! What umoci, which unpacks images as root, makes of the same layers.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::mounted::{files_below, run};
use crate::Digest;
use crate::erofs_reader::Files;

/// The files that umoci makes of layers.
pub fn unpack(tars: &[Vec<u8>]) -> Files {
    let place = tempfile::TempDir::new().unwrap();
    let image = place.path().join("image");
    write_image(&image, tars);
    let root = place.path().join("root");
    let mut umoci = Command::new("umoci");
    umoci
        .args(["raw", "unpack", "--image"])
        .arg(format!("{}:test", image.display()))
        .arg(&root);
    run(&mut umoci);
    files_below(&root)
}

/// Writes an image as an OCI layout (OCI image specification, "Image Layout").
fn write_image(place: &Path, tars: &[Vec<u8>]) {
    fs::create_dir_all(place.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(place.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    };
    let descriptor = |kind: &str, bytes: &[u8]| {
        let (digest, size) = (blob(bytes), bytes.len());
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}"#)
    };
    let ids: Vec<_> = tars
        .iter()
        .map(|tar| format!("\"{}\"", Digest::of(tar)))
        .collect();
    let ids = ids.join(",");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#
    );
    let layers: Vec<_> = tars
        .iter()
        .map(|tar| descriptor("layer.v1.tar", tar) + "}")
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{}}},"layers":[{}]}}"#,
        descriptor("config.v1+json", config.as_bytes()),
        layers.join(",")
    );
    let manifest = descriptor("manifest.v1+json", manifest.as_bytes());
    let name = r#""annotations":{"org.opencontainers.image.ref.name":"test"}"#;
    fs::write(
        place.join("index.json"),
        format!(r#"{{"schemaVersion":2,"manifests":[{manifest},{name}}}]}}"#),
    )
    .unwrap();
    fs::write(place.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
