//! What has to hold for any image's passwd and group, and any wish.

use std::collections::BTreeSet;

use cri_api::v1::{Int64Value, LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use super::{ImageUser, MAX_ID, ResolvedUser, image_user, resolve};
use crate::fuzz::Input;

/// Who is resolved is within the range of ids, has each group once and the primary one first; and the same again when asked for by
/// the numbers that came out.
pub(crate) fn user(data: &[u8]) {
    let mut input = Input::new(data);
    let (how, id, group, extra) = (input.byte(), input.word(), input.word(), input.word());
    // Mostly numbers that the files have.
    let number = |word: u32| {
        Some(Int64Value { value: if word & 1 == 0 { i64::from(word >> 1 & 7) } else { i64::from(word.cast_signed()) } })
    };
    let wanted = LinuxContainerSecurityContext {
        run_as_user: (how & 1 != 0).then(|| number(id)).flatten(),
        run_as_group: (how & 2 != 0).then(|| number(group)).flatten(),
        run_as_username: if how & 4 != 0 { String::from_utf8_lossy(input.text()).into_owned() } else { String::new() },
        supplemental_groups: if how & 8 != 0 { number(extra).iter().map(|n| n.value).collect() } else { Vec::new() },
        supplemental_groups_policy: if how & 16 != 0 { SupplementalGroupsPolicy::Strict as i32 } else { 0 },
        ..LinuxContainerSecurityContext::default()
    };
    let of_image = String::from_utf8_lossy(input.text()).into_owned();
    let (passwd, group) = (input.text(), input.rest());
    if let ImageUser::Name(name) = image_user(&of_image) {
        assert!(!name.is_empty() && !name.contains(':'), "{name:?}");
    }
    let context = (how & 32 == 0).then_some(&wanted);
    match resolve(context, &of_image, passwd, group) {
        Ok(user) => hold(&user, passwd, group),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn hold(user: &ResolvedUser, passwd: &[u8], group: &[u8]) {
    assert!(user.uid <= MAX_ID && user.groups.iter().all(|group| *group <= MAX_ID), "{user:?}");
    assert_eq!(user.groups.first(), Some(&user.gid));
    assert_eq!(user.groups.iter().collect::<BTreeSet<_>>().len(), user.groups.len(), "{user:?}");
    assert!(user.home.as_ref().is_none_or(|home| !home.is_empty() && !home.contains(['\n', ':'])), "{user:?}");
    let by_number = LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: user.uid.into() }),
        run_as_group: Some(Int64Value { value: user.gid.into() }),
        supplemental_groups: user.groups[1..].iter().map(|&group| group.into()).collect(),
        supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
        ..LinuxContainerSecurityContext::default()
    };
    let again = resolve(Some(&by_number), "", passwd, group).expect("numbers resolve");
    assert_eq!((again.uid, again.gid, &again.groups), (user.uid, user.gid, &user.groups));
}
