//! A store into which tests pull from hostile servers, and an image for that.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::hostile_server::Server;
use super::{Cancel, Client, Options, Patience, Pulled};
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::made::{Made, gzip, image_of, tar};
use crate::store::Store;
use crate::{Error, Platform, Result};

pub struct Place {
    _directory: TempDir,
    pub store: Store,
    pub patience: Patience,
    pub credentials: Credentials,
    pub cancel: Cancel,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        let credentials = Credentials::in_files(vec![directory.path().join("config.json")]);
        let patience = Patience {
            answer: Duration::from_millis(1500),
            small: Duration::from_millis(1500),
            read: Duration::from_millis(700),
            attempts: 3,
            delay: Duration::from_millis(10),
            delay_max: Duration::from_secs(2),
            ..Patience::default()
        };
        Self {
            _directory: directory,
            store,
            patience,
            credentials,
            cancel: Cancel::default(),
        }
    }

    pub fn client(&self) -> Client {
        let options = Options {
            patience: self.patience.clone(),
            ..Options::default()
        };
        Client::new(options, self.credentials.clone(), self.cancel.clone()).unwrap()
    }

    pub fn pull(&self, server: &Server) -> Result<Pulled> {
        let begin = Instant::now();
        let pulled = self
            .client()
            .pull(&server.name(), &Platform::default(), &self.store, &());
        assert!(begin.elapsed() < Duration::from_secs(20), "it takes too long");
        assert!(self.store.verify(|_| ()).unwrap().is_empty());
        assert_eq!(pulled.is_ok(), self.store.entries().unwrap().len() == 1);
        pulled
    }

    pub fn refuses(&self, server: &Server, why: &str) -> Error {
        let error = self.pull(server).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        error
    }

    pub fn has(&self, made: &Made) {
        for tar in &made.tars {
            assert_eq!(&fs::read(self.store.layer_path(&Digest::of(tar))).unwrap(), tar);
        }
    }
}

/// An image whose layer takes more than one read.
pub fn large() -> Made {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..400_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect();
    image_of("amd64", vec![tar(&[("noise", &noise)])], gzip)
}
