//! Users and groups against the files of an image.

use cri_api::v1::Int64Value;
use proptest::prelude::*;

use super::*;

const PASSWD: &[u8] =
    b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:Web:/home/web:/bin/sh\nbroken\n\nhuge:x:4294967295:0::/:/\n";
const GROUP: &[u8] = b"root:x:0:\nweb:x:1001:\nlogs:x:50:other,web\nfuse:x:60:webmaster\nextra:x:70:web\n";

fn context(user: Option<i64>, group: Option<i64>, name: &str) -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext {
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_group: group.map(|value| Int64Value { value }),
        run_as_username: name.to_owned(),
        ..Default::default()
    }
}

fn of(context: &LinuxContainerSecurityContext, image: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
    resolve(Some(context), image, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups))
}

#[test]
fn the_request_beats_the_image() {
    let none = context(None, None, "");
    assert_eq!(of(&none, ""), Ok((0, 0, vec![0])));
    assert_eq!(of(&none, "web"), Ok((1000, 1001, vec![1001, 50, 70])));
    assert_eq!(of(&none, "1000:logs"), Ok((1000, 50, vec![50, 70])));
    assert_eq!(of(&none, "7"), Ok((7, 0, vec![0])));
    assert_eq!(of(&context(Some(1000), None, ""), "0"), Ok((1000, 1001, vec![1001, 50, 70])));
    assert_eq!(of(&context(Some(8), Some(9), ""), "web"), Ok((8, 9, vec![9])));
    assert_eq!(of(&context(None, Some(9), "web"), ""), Ok((1000, 9, vec![9, 50, 70])));
    assert_eq!(of(&context(Some(8), None, "web"), ""), Ok((1000, 1001, vec![1001, 50, 70])));
}

#[test]
fn the_policy_decides_over_the_images_groups() {
    let mut asked = context(Some(1000), None, "");
    asked.supplemental_groups = vec![2000, 50];
    assert_eq!(of(&asked, ""), Ok((1000, 1001, vec![1001, 2000, 50, 70])));
    asked.supplemental_groups_policy = SupplementalGroupsPolicy::Strict as i32;
    assert_eq!(of(&asked, ""), Ok((1000, 1001, vec![1001, 2000, 50])));
}

#[test]
fn what_does_not_resolve_is_named() {
    assert_eq!(of(&context(None, Some(5), ""), "web"), Err(UserError::GroupWithoutUser(5)));
    let error = of(&context(None, None, "nobody"), "").unwrap_err();
    assert_eq!(error.to_string(), "linux.security_context.run_as_username: the image has no user \"nobody\"");
    let error = of(&context(None, None, ""), "web:wheel").unwrap_err();
    assert_eq!(error.to_string(), "image USER: the image has no group \"wheel\"");
}

#[test]
fn ids_that_wrap_are_refused() {
    for image in ["2147483648", "4294967296", "-1", "0:4294967296", "99999999999999999999"] {
        let error = of(&context(None, None, ""), image).unwrap_err();
        assert!(matches!(error, UserError::OutOfRange { field: "image USER", .. }), "{image}: {error}");
    }
    for id in [-1, 1 << 31, 1 << 32, i64::MIN] {
        assert!(of(&context(Some(id), None, ""), "").is_err());
        assert!(of(&context(Some(1), Some(id), ""), "").is_err());
        let extra = LinuxContainerSecurityContext { supplemental_groups: vec![id], ..Default::default() };
        assert!(of(&extra, "").is_err());
    }
    assert!(of(&context(None, None, "huge"), "").is_err(), "an entry out of range is no entry");
}

#[test]
fn the_images_user_is_told_without_its_group() {
    assert_eq!(image_user(""), ImageUser::Unset);
    assert_eq!(image_user("1000:50"), ImageUser::Uid(1000));
    assert_eq!(image_user("web:logs"), ImageUser::Name("web".to_owned()));
}

proptest! {
    #[test]
    fn no_file_and_no_name_panics(
        image in "\\PC{0,24}",
        passwd in proptest::collection::vec(any::<u8>(), 0..200),
        group in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(user) = resolve(None, &image, &passwd, &group) {
            prop_assert!(user.uid <= MAX_ID && user.gid <= MAX_ID);
            prop_assert_eq!(user.groups[0], user.gid);
        }
    }

    #[test]
    fn numbers_are_never_names(uid in 0u32..=MAX_ID, gid in 0u32..=MAX_ID) {
        let passwd = format!("{uid}:x:5:5::/:/\n");
        let user = resolve(None, &format!("{uid}:{gid}"), passwd.as_bytes(), b"").unwrap();
        prop_assert_eq!((user.uid, user.gid), (uid, gid));
    }
}
