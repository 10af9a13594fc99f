use oci_spec::image::ImageIndex;
use serde_json::json;

use super::{Configuration, Document, HealthCheck, check_manifest, select};
use crate::Platform;
use crate::digest::Digest;
use crate::made::{gzip, image};

fn configuration(value: &serde_json::Value) -> crate::Result<Configuration> {
    Configuration::parse(value.to_string().as_bytes())
}

#[test]
fn the_chain_of_layers_has_the_name_that_the_specification_gives_it() {
    let ids = ["one", "two", "three"].map(|text| Digest::of(text.as_bytes()));
    let of = |count: usize| {
        let diff_ids: Vec<_> = ids[..count].iter().map(Digest::to_string).collect();
        let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
        configuration(&json!({ "os": "linux", "architecture": "amd64", "rootfs": rootfs }))
            .unwrap()
            .chain_id()
    };
    assert_eq!(of(0), None);
    assert_eq!(of(1).as_ref(), Some(&ids[0]));
    let two = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
    assert_eq!(of(2).as_ref(), Some(&two));
    assert_eq!(of(3), Some(Digest::of(format!("{two} {}", ids[2]).as_bytes())));
}

#[test]
fn a_configuration_of_dockers_is_understood() {
    let text = json!({
        "os": "linux", "architecture": "arm", "variant": "v7", "docker_version": "20", "container_config": null,
        "config": {
            "Hostname": "", "Env": null, "Cmd": null, "Entrypoint": ["/x"], "Volumes": null, "ExposedPorts": { "80/tcp": {} },
            "OnBuild": null, "Labels": null, "StopSignal": "SIGQUIT",
            "Healthcheck": { "Test": ["CMD", "true"], "Interval": 5_000_000_000u64, "Retries": 3 },
        },
        "rootfs": { "type": "layers", "diff_ids": [] }, "history": [{ "created_by": "x", "empty_layer": true }],
    });
    let configuration = configuration(&text).unwrap();
    assert_eq!(configuration.platform().to_string(), "linux/arm/v7");
    let check = HealthCheck {
        test: Some(vec!["CMD".into(), "true".into()]),
        interval: Some(5_000_000_000),
        timeout: None,
        start_period: None,
        retries: Some(3),
    };
    assert_eq!(configuration.health_check, Some(check));
    let config = configuration.oci.config().clone().unwrap();
    assert_eq!(config.entrypoint().as_deref(), Some(&["/x".to_owned()][..]));
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let rootfs = |kind: &str, id: &str| json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": kind, "diff_ids": [id] } });
    for bad in [
        json!({}),
        json!([]),
        rootfs("base", ""),
        rootfs("layers", "../../x"),
        rootfs("layers", "sha256:12"),
    ] {
        assert!(configuration(&bad).is_err(), "{bad}");
    }
}

#[test]
fn a_variant_counts_where_one_is_asked_for() {
    let named = |digit: &str, variant: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", digit.repeat(64)), "size": 1,
            "platform": { "os": "linux", "architecture": "arm", "variant": variant },
        })
    };
    let index = json!({ "schemaVersion": 2, "manifests": [named("6", "v6"), named("7", "v7")] });
    let index: ImageIndex = serde_json::from_value(index).unwrap();
    let digest = |platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        select(&index, &platform).map(|found| found.digest().digest()[..1].to_owned())
    };
    assert_eq!(digest("linux/arm/v7").unwrap(), "7");
    assert_eq!(digest("linux/arm").unwrap(), "6");
    let error = digest("linux/amd64").unwrap_err().to_string();
    assert!(error.contains("linux/arm/v6, linux/arm/v7"), "{error}");
}

#[test]
fn artifacts_and_layers_of_other_kinds_are_no_images() {
    let manifest = String::from_utf8(image(&["one"], gzip).manifest).unwrap();
    for (from, to, why) in [
        (
            "vnd.oci.image.config.v1+json",
            "vnd.example.config",
            "an artifact",
        ),
        ("layer.v1.tar+gzip", "layer.v1.tar+encrypted", "not understood"),
        ("\"sha256:", "\"sha384:", "no manifest"),
    ] {
        let changed = manifest.replace(from, to);
        let checked = match Document::parse(changed.as_bytes()) {
            Ok(Document::Manifest(manifest)) => check_manifest(&manifest),
            Ok(Document::Index(_)) => panic!("it is a manifest"),
            Err(error) => Err(error),
        };
        let error = checked.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
