//! Images, their file system, and the credentials to pull them with.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cri_api::v1;
use tonic::Status;

use crate::image::{Auth, FsUsage, Image};

/// An image.
pub(in crate::cri) fn image(image: &Image) -> v1::Image {
    let user = image.config.config().as_ref().and_then(|config| config.user().as_deref()).unwrap_or_default();
    let (uid, username) = user_of(user);
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        // The same whatever name it was asked by: answers by tag, digest and id are to be equal.
        spec: Some(v1::ImageSpec { image: image.id.to_string(), ..v1::ImageSpec::default() }),
        pinned: image.pinned,
    }
}

/// An image's `USER` without its group: a number or a name.
fn user_of(user: &str) -> (Option<v1::Int64Value>, String) {
    let user = user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(value) => (Some(v1::Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// The image's configuration, as crictl shows it.
pub(in crate::cri) fn image_info(image: &Image) -> HashMap<String, String> {
    let info = serde_json::json!({ "chainID": "", "imageSpec": image.config });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The images' file system.
pub(in crate::cri) fn filesystem(usage: &FsUsage, timestamp: i64) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: usage.mountpoint.to_string_lossy().into_owned() }),
        used_bytes: Some(v1::UInt64Value { value: usage.used_bytes }),
        inodes_used: Some(v1::UInt64Value { value: usage.inodes }),
    }
}

/// Credentials. `auth` is user and password in one, as docker's config.json has it.
pub(in crate::cri) fn auth(auth: v1::AuthConfig) -> Result<Auth, Status> {
    let v1::AuthConfig { mut username, mut password, auth, server_address, identity_token, registry_token } = auth;
    if !auth.is_empty() && username.is_empty() && password.is_empty() {
        // Some writers of config.json end it with zero bytes.
        let text = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = text.as_deref().map(|text| text.trim_end_matches('\0')).and_then(|text| text.split_once(':'));
        let (user, secret) = pair.ok_or_else(|| {
            // Its value is a secret and stays out of the message.
            Status::invalid_argument("auth.auth: must be the base64 of user:password")
        })?;
        (username, password) = (user.to_owned(), secret.to_owned());
    }
    Ok(Auth { username, password, identity_token, registry_token, server_address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_by_number_or_name_without_its_group() {
        let number = |value| (Some(v1::Int64Value { value }), String::new());
        assert_eq!(user_of("1000:100"), number(1000));
        assert_eq!(user_of("0"), number(0));
        assert_eq!(user_of("www-data:users"), (None, "www-data".into()));
        assert_eq!(user_of(""), (None, String::new()));
    }

    #[test]
    fn docker_auth_is_split_into_user_and_password() {
        let with = |auth: &str| v1::AuthConfig { auth: auth.into(), ..v1::AuthConfig::default() };
        let split = auth(with("dXNlcjpwYXNzOndvcmQ=")).unwrap();
        assert_eq!((split.username.as_str(), split.password.as_str()), ("user", "pass:word"));
        for bad in ["!!!", "dXNlcg=="] {
            let refused = auth(with(bad)).unwrap_err();
            assert!(!refused.message().contains(bad), "{refused}");
        }
        let plain = v1::AuthConfig { username: "u".into(), password: "p".into(), ..with("dXNlcjpwYXNz") };
        assert_eq!(auth(plain).unwrap().username, "u");
    }
}
