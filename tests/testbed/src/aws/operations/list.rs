//! `ListSecrets`: filters, order, pages by an opaque token. Batches with filters use the same pages.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    super::{
        error::ApiError,
        secrets::{Cursor, MAX_SCAN, Secret, SortBy},
        versions::SecretState,
        wire::sha256_hex,
    },
    Context, Request, description, input,
};

/// Entries on a page, at most.
pub(super) const MAX_PAGE: usize = 100;
const MAX_FILTERS: usize = 10;

const KEYS: [&str; 7] = [
    "name",
    "description",
    "tag-key",
    "tag-value",
    "primary-region",
    "owning-service",
    "all",
];

/// One filter: any of its values must match, and so must every other filter.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Filter {
    key: String,
    values: Vec<String>,
}

#[derive(Default)]
pub(super) struct Query {
    pub(super) filters: Vec<Filter>,
    pub(super) limit: usize,
    pub(super) next_token: Option<String>,
    pub(super) include_deleted: bool,
    pub(super) sort: SortBy,
    pub(super) descending: bool,
}

pub(super) struct Page {
    pub(super) entries: Vec<(Arc<Secret>, Arc<SecretState>)>,
    pub(super) next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    filters: Option<Vec<Filter>>,
    max_results: Option<i64>,
    next_token: Option<String>,
    include_planned_deletion: Option<bool>,
    sort_by: Option<String>,
    sort_order: Option<String>,
}

pub(super) fn list(request: &Request<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let List {
        filters,
        max_results,
        next_token,
        include_planned_deletion,
        sort_by,
        sort_order,
    } = input(body)?;
    request.authorize("secretsmanager:ListSecrets", "*", &Context::default())?;
    let query = Query {
        filters: filters.unwrap_or_default(),
        limit: limit(max_results, MAX_PAGE)?,
        next_token,
        include_deleted: include_planned_deletion.unwrap_or_default(),
        sort: match sort_by.as_deref() {
            None | Some("created-date") => SortBy::Created,
            Some("last-changed-date") => SortBy::Changed,
            Some("last-accessed-date") => SortBy::Accessed,
            Some("name") => SortBy::Name,
            Some(_) => {
                return Err(ApiError::constraint(
                    "sortBy",
                    "Member must satisfy enum value set",
                ));
            }
        },
        descending: match sort_order.as_deref() {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(_) => {
                return Err(ApiError::constraint(
                    "sortOrder",
                    "Member must satisfy enum value set: [asc, desc]",
                ));
            }
        },
    };
    let page = page(request, &query)?;
    let entries: Vec<Value> = page
        .entries
        .iter()
        .map(|(secret, state)| Value::Object(description(secret, state, "SecretVersionsToStages")))
        .collect();
    let mut answer = json!({"SecretList": entries});
    if let (Some(token), Some(answer)) = (page.next_token, answer.as_object_mut()) {
        answer.insert("NextToken".to_owned(), Value::String(token));
    }
    Ok(answer)
}

/// The page size asked for.
pub(super) fn limit(max_results: Option<i64>, most: usize) -> Result<usize, ApiError> {
    let Some(asked) = max_results else { return Ok(most) };
    usize::try_from(asked)
        .ok()
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| {
            ApiError::constraint(
                "maxResults",
                &format!("Member must have value between 1 and {most}"),
            )
        })
}

pub(super) fn page(request: &Request<'_>, query: &Query) -> Result<Page, ApiError> {
    check_filters(&query.filters)?;
    let store = request.store();
    // A token belongs to the query it came from.
    let origin = sha256_hex(
        json!([
            query.filters,
            query.include_deleted,
            format!("{:?}", query.sort),
            query.descending
        ])
        .to_string()
        .as_bytes(),
    );
    let mut last =
        match &query.next_token {
            None => None,
            Some(token) => Some(read_token(token, &origin).ok_or_else(|| {
                ApiError::new("InvalidNextTokenException", "The NextToken value is invalid.")
            })?),
        };
    let (mut entries, mut scanned) = (Vec::new(), 0);
    loop {
        let wanted = (query.limit - entries.len()).max(1);
        let chunk = store.after(last.as_ref(), query.sort, query.descending, wanted);
        let exhausted = chunk.len() < wanted;
        scanned += chunk.len();
        for secret in chunk {
            let state = secret.at(request.as_of(&[Cow::Borrowed(&*secret.arn)]));
            last = Some(Cursor {
                sequence: secret.sequence,
                name: secret.name.clone(),
            });
            if let Some(state) = state
                && (query.include_deleted || state.deleted.is_none())
                && query.filters.iter().all(|filter| filter.matches(&secret, &state))
            {
                entries.push((secret, state));
            }
        }
        if exhausted {
            return Ok(Page {
                entries,
                next_token: None,
            });
        }
        if entries.len() >= query.limit || scanned >= MAX_SCAN {
            let more = !store
                .after(last.as_ref(), query.sort, query.descending, 1)
                .is_empty();
            let next_token = last.filter(|_| more).map(|last| write_token(&last, &origin));
            return Ok(Page { entries, next_token });
        }
    }
}

fn write_token(last: &Cursor, origin: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {} {origin}", last.sequence, last.name))
}

fn read_token(token: &str, origin: &str) -> Option<Cursor> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    // Names hold no spaces.
    let mut parts = text.split(' ');
    let (sequence, name) = (parts.next()?.parse().ok()?, parts.next()?.into());
    (parts.next() == Some(origin)).then_some(Cursor { sequence, name })
}

fn check_filters(filters: &[Filter]) -> Result<(), ApiError> {
    if filters.len() > MAX_FILTERS {
        return Err(ApiError::constraint(
            "filters",
            "Member must have length less than or equal to 10",
        ));
    }
    for filter in filters {
        if !KEYS.contains(&filter.key.as_str()) {
            return Err(ApiError::constraint(
                "filters.member.key",
                "Member must satisfy enum value set",
            ));
        }
        if filter.values.is_empty() || filter.values.len() > MAX_FILTERS {
            return Err(ApiError::constraint(
                "filters.member.values",
                "Member must have length between 1 and 10",
            ));
        }
    }
    Ok(())
}

impl Filter {
    fn matches(&self, secret: &Secret, state: &SecretState) -> bool {
        self.values.iter().any(|value| match value.strip_prefix('!') {
            Some(negated) => !self.value_matches(negated, secret, state),
            None => self.value_matches(value, secret, state),
        })
    }

    fn value_matches(&self, value: &str, secret: &Secret, state: &SecretState) -> bool {
        let description = state.description.as_deref().unwrap_or_default();
        match self.key.as_str() {
            "name" => secret.name.starts_with(value),
            "description" => description.to_lowercase().starts_with(&value.to_lowercase()),
            "tag-key" => state.tags.keys().any(|key| key.starts_with(value)),
            "tag-value" => state.tags.values().any(|tag| tag.starts_with(value)),
            "all" => {
                let tags = state.tags.iter().flat_map(|(key, tag)| [key.as_str(), tag]);
                let known: Vec<String> = [&*secret.name, description]
                    .into_iter()
                    .chain(tags)
                    .flat_map(words)
                    .collect();
                words(value).all(|word| known.contains(&word))
            }
            // Neither replicas nor managed secrets exist here.
            _ => false,
        }
    }
}

/// Lower-case words, parted as AWS's word search does: at spaces and at the signs that names may hold.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}
