//! Names of images, digests and platforms that a person or an image writes.
#![no_main]

use coracle_images::{Digest, Platform, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        for form in [reference.to_string(), reference.familiar()] {
            assert_eq!(form.parse::<Reference>().unwrap(), reference, "{form}");
        }
        assert!(reference.familiar().len() <= reference.to_string().len());
        // Both become parts of URLs.
        let is_plain = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-/:[]".contains(&byte))
        };
        assert!(is_plain(reference.host()) && is_plain(reference.path()));
        assert!(
            reference
                .path()
                .split('/')
                .all(|part| !part.is_empty() && !part.starts_with('.'))
        );
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string(), text);
    }
});
