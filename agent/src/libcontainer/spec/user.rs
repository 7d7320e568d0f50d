//! Which user and groups a process runs as: CRI `run_as_*`, else the image's USER, resolved against the image's own
//! /etc/passwd and /etc/group. Pure: the caller reads the files (an absent file is empty).

use cri_api::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;

/// The largest id that is taken: what is above wraps to something else in programs that hold ids as i32, and to root in
/// those that truncate (CVE-2024-40635).
const MAX_ID: u32 = i32::MAX as u32;

/// A user as the kernel takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one first (CVE-2022-36109), none twice.
    pub groups: Vec<u32>,
    /// Home directory, when passwd knows the user.
    pub home: Option<String>,
}

/// A user or group that does not resolve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// CRI rule.
    #[error("linux.security_context.run_as_group: {0} is given without a user")]
    GroupWithoutUser(i64),
    /// Not a number that ids may have.
    #[error("{field}: {value:?} is not an id between 0 and 2147483647")]
    OutOfRange {
        /// Where it came from.
        field: &'static str,
        /// As given.
        value: String,
    },
    /// A name that the image's files do not have.
    #[error("{field}: the image has no {kind} {name:?}")]
    Unknown {
        /// Where it came from.
        field: &'static str,
        /// "user" or "group".
        kind: &'static str,
        /// As given.
        name: String,
    },
}

/// The user part of an image's USER, for `Image.uid` and `Image.username`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// No USER at all.
    Unset,
    /// A number.
    Uid(i64),
    /// A name.
    Name(String),
}

/// The user of an image's `user[:group]`, without its group.
pub fn image_user(text: &str) -> ImageUser {
    let (user, _) = split(text);
    match user.parse::<i64>() {
        _ if user.is_empty() => ImageUser::Unset,
        Ok(uid) => ImageUser::Uid(uid),
        Err(_) => ImageUser::Name(user.to_owned()),
    }
}

/// Whom the container runs as.
///
/// # Errors
/// `UserError`: a group without a user, a name that is in neither file, an id out of range.
pub fn resolve(
    context: Option<&LinuxContainerSecurityContext>,
    image_user: &str,
    passwd: &[u8],
    group: &[u8],
) -> Result<ResolvedUser, UserError> {
    let empty = LinuxContainerSecurityContext::default();
    let context = context.unwrap_or(&empty);
    let accounts = Accounts { passwd, group };
    let choice = choose(context, image_user)?;
    let (user, base_group) = accounts.identify(&choice)?;

    let mut groups = vec![base_group];
    for &extra in &context.supplemental_groups {
        groups.push(in_range("linux.security_context.supplemental_groups", extra)?);
    }
    if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge
        && let Some(name) = &user.name
    {
        groups.extend(accounts.member_of(name));
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|&one| seen.insert(one));
    Ok(ResolvedUser { uid: user.uid, gid: base_group, groups, home: user.home })
}

/// What was asked for, with the field it came from.
struct Choice<'a> {
    field: &'static str,
    user: UserName<'a>,
    group_field: &'static str,
    group: Option<GroupName<'a>>,
}

enum UserName<'a> {
    Default,
    Id(u32),
    Name(&'a str),
}

enum GroupName<'a> {
    Id(u32),
    Name(&'a str),
}

fn choose<'a>(context: &'a LinuxContainerSecurityContext, image_user: &'a str) -> Result<Choice<'a>, UserError> {
    const GROUP: &str = "linux.security_context.run_as_group";
    let group = match &context.run_as_group {
        Some(group) => Some(GroupName::Id(in_range(GROUP, group.value)?)),
        None => None,
    };
    if !context.run_as_username.is_empty() {
        let field = "linux.security_context.run_as_username";
        let user = parse_user(field, &context.run_as_username)?;
        return Ok(Choice { field, user, group_field: GROUP, group });
    }
    if let Some(uid) = &context.run_as_user {
        let field = "linux.security_context.run_as_user";
        return Ok(Choice { field, user: UserName::Id(in_range(field, uid.value)?), group_field: GROUP, group });
    }
    if let Some(group) = &context.run_as_group {
        return Err(UserError::GroupWithoutUser(group.value));
    }
    let field = "image USER";
    let (user, group) = split(image_user);
    let user = parse_user(field, user)?;
    let group = match group {
        None | Some("") => None,
        Some(text) => Some(match parse_id(field, text)? {
            Some(gid) => GroupName::Id(gid),
            None => GroupName::Name(text),
        }),
    };
    Ok(Choice { field, user, group_field: field, group })
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    }
}

fn parse_user<'a>(field: &'static str, text: &'a str) -> Result<UserName<'a>, UserError> {
    if text.is_empty() {
        return Ok(UserName::Default);
    }
    Ok(match parse_id(field, text)? {
        Some(uid) => UserName::Id(uid),
        None => UserName::Name(text),
    })
}

/// A number, or `None` for a name. A number that is out of range is never taken for a name.
fn parse_id(field: &'static str, text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::OutOfRange { field, value: text.to_owned() }),
    }
}

fn in_range(field: &'static str, id: i64) -> Result<u32, UserError> {
    match u32::try_from(id) {
        Ok(id) if id <= MAX_ID => Ok(id),
        _ => Err(UserError::OutOfRange { field, value: id.to_string() }),
    }
}

/// The image's passwd(5) and group(5). Lines that do not parse are no entries.
struct Accounts<'a> {
    passwd: &'a [u8],
    group: &'a [u8],
}

#[derive(Debug, Default)]
struct Account {
    uid: u32,
    gid: u32,
    name: Option<String>,
    home: Option<String>,
}

impl Accounts<'_> {
    fn identify(&self, choice: &Choice<'_>) -> Result<(Account, u32), UserError> {
        let user = match choice.user {
            UserName::Default => self.user(|entry| entry.uid == 0).unwrap_or_default(),
            // A number that passwd does not know is fine; its group is then root's, as everywhere.
            UserName::Id(uid) => {
                self.user(|entry| entry.uid == uid).unwrap_or_else(|| Account { uid, ..Account::default() })
            }
            UserName::Name(name) => self
                .user(|entry| entry.name.as_deref() == Some(name))
                .ok_or_else(|| UserError::Unknown { field: choice.field, kind: "user", name: name.to_owned() })?,
        };
        let gid = match choice.group {
            None => user.gid,
            Some(GroupName::Id(gid)) => gid,
            Some(GroupName::Name(name)) => self.group_id(name).ok_or_else(|| UserError::Unknown {
                field: choice.group_field,
                kind: "group",
                name: name.to_owned(),
            })?,
        };
        Ok((user, gid))
    }

    fn user(&self, wanted: impl Fn(&Account) -> bool) -> Option<Account> {
        lines(self.passwd).filter_map(parse_passwd).find(|entry| wanted(entry))
    }

    fn group_id(&self, wanted: &str) -> Option<u32> {
        lines(self.group).filter_map(parse_group).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid)
    }

    fn member_of<'s>(&'s self, user: &'s str) -> impl Iterator<Item = u32> + 's {
        lines(self.group)
            .filter_map(parse_group)
            .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
            .map(|(_, gid, _)| gid)
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).map(str::trim)
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id| id <= MAX_ID)
}

/// `name:password:uid:gid:gecos:home:shell`
fn parse_passwd(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
    let home = fields.nth(1).filter(|home| !home.is_empty());
    Some(Account { uid, gid, name: Some(name.to_owned()), home: home.map(str::to_owned) })
}

/// `name:password:gid:member,member`
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let gid = id(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or("")))
}

#[cfg(test)]
mod tests;
