//! Images that tests are made of.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use coracle_archive::{Entry, Kind, Time, Writer};
use serde_json::{Value, json};

use crate::digest::Digest;

/// A tar of files with these paths and data.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, data) in files {
        put_entry(&mut writer, path, data, None);
    }
    writer.finish().unwrap()
}

/// Adds a file to a tar, or what else it is.
pub fn put_entry(writer: &mut Writer<Vec<u8>>, path: &str, data: &[u8], kind: Option<Kind>) {
    let file = Kind::File {
        size: data.len() as u64,
        pieces: None,
    };
    let entry = Entry {
        path: path.as_bytes().to_vec(),
        kind: kind.unwrap_or(file),
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: Time::default(),
    };
    writer.entry(&entry).unwrap();
    writer.data(data).unwrap();
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image: its blobs, and what leads to them.
#[derive(Clone)]
pub struct Made {
    pub layers: Vec<Vec<u8>>,
    pub tars: Vec<Vec<u8>>,
    pub configuration: Vec<u8>,
    pub manifest: Vec<u8>,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer is compressed.
pub type Compress = fn(&[u8]) -> Vec<u8>;

/// An image with one file a layer, whose data the texts are.
pub fn image(texts: &[&str], compress: Compress) -> Made {
    image_for("amd64", texts, compress)
}

pub fn image_for(architecture: &str, texts: &[&str], compress: Compress) -> Made {
    let tars: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| tar(&[(&format!("file-{at}"), text.as_bytes())]))
        .collect();
    image_of(architecture, tars, compress)
}

pub fn image_of(architecture: &str, tars: Vec<Vec<u8>>, compress: Compress) -> Made {
    let layers: Vec<_> = tars.iter().map(|tar| compress(tar)).collect();
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let configuration = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Cmd": ["/bin/true"], "Env": null },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let configuration = configuration.to_string().into_bytes();
    let suffix = match compress(b"x") {
        bytes if bytes == b"x" => "",
        bytes if bytes.starts_with(&[0x1f]) => "+gzip",
        _ => "+zstd",
    };
    let layer_type = format!("{LAYER}{suffix}");
    let described: Vec<_> = layers
        .iter()
        .map(|layer| descriptor(&layer_type, layer))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIGURATION, &configuration), "layers": described,
    });
    Made {
        layers,
        tars,
        configuration,
        manifest: manifest.to_string().into_bytes(),
    }
}

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(blob).to_string(), "size": blob.len() })
}

impl Made {
    pub fn id(&self) -> Digest {
        Digest::of(&self.configuration)
    }

    pub fn blobs(&self) -> Vec<&[u8]> {
        let small = [&self.configuration[..], &self.manifest];
        small
            .into_iter()
            .chain(self.layers.iter().map(Vec::as_slice))
            .collect()
    }

    /// The members of an archive of the layout.
    pub fn layout(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let mut descriptor = descriptor(MANIFEST, &self.manifest);
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        layout(vec![descriptor], &self.blobs())
    }

    /// The members of an archive as an older `docker save` writes it.
    pub fn docker(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let path = |at: usize| format!("{at}abc/layer.tar");
        let layers: Vec<_> = (0..self.layers.len()).map(path).collect();
        let config = format!("{}.json", self.id().hex());
        let list = json!([{ "Config": config, "RepoTags": names, "Layers": layers }]);
        let mut members: Vec<_> = layers.into_iter().zip(self.layers.clone()).collect();
        members.push((config, self.configuration.clone()));
        members.push(("manifest.json".into(), list.to_string().into_bytes()));
        members
    }
}

pub fn layout(manifests: Vec<Value>, blobs: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let blob = |blob: &&[u8]| (format!("blobs/sha256/{}", Digest::of(blob).hex()), blob.to_vec());
    let mut members: Vec<_> = blobs.iter().map(blob).collect();
    members.push(("index.json".into(), index.to_string().into_bytes()));
    members.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    members
}

/// An archive of these members.
pub fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<_> = members
        .iter()
        .map(|(path, data)| (path.as_str(), &data[..]))
        .collect();
    tar(&members)
}

/// Writes members as files.
pub fn put(members: &[(String, Vec<u8>)], directory: &Path) {
    for (path, data) in members {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
}

/// Runs a program that must be there and must succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; install it"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    out.into_owned()
}
