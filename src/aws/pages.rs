//! Listing a source's secrets.

use aws_sdk_secretsmanager::types::SecretListEntry;

use super::{
    error::{Cause, Error},
    limit::{Operation, Urgency},
    remote::Description,
    secrets::{Aws, rules, stages},
};
use crate::api::SourceId;

/// Most secrets of a page of `ListSecrets`.
const PAGE: i32 = 100;
/// A sweep is begun again at most so often, when AWS forgets where it was.
const RESTARTS: u32 = 3;

/// A listing, page by page.
pub struct Pages<'a> {
    aws: &'a Aws,
    id: SourceId,
    state: Next,
    restarts: u32,
}

enum Next {
    First,
    Token(String),
    End,
}

impl<'a> Pages<'a> {
    pub(super) fn new(aws: &'a Aws, id: SourceId) -> Self {
        Self {
            aws,
            id,
            state: Next::First,
            restarts: 0,
        }
    }

    /// The next page, which may be empty; `None` after the last. When AWS has forgotten where the listing was it begins
    /// again, and secrets come twice.
    pub async fn next(&mut self) -> Result<Option<Vec<Description>>, Error> {
        loop {
            let token = match &self.state {
                Next::First => None,
                Next::Token(token) => Some(token.clone()),
                Next::End => return Ok(None),
            };
            match self.page(token.as_ref()).await {
                Ok((secrets, next)) => {
                    self.state = match next {
                        // A token that leads to itself would never end.
                        Some(next) if token.as_ref() != Some(&next) => Next::Token(next),
                        _ => Next::End,
                    };
                    return Ok(Some(secrets));
                }
                Err(cause) => {
                    let is_lost = cause.code.as_deref() == Some("InvalidNextTokenException");
                    if !is_lost || self.restarts == RESTARTS {
                        self.state = Next::End;
                        return Err(Error::List { cause });
                    }
                    self.restarts += 1;
                    self.state = Next::First;
                }
            }
        }
    }

    async fn page(&self, token: Option<&String>) -> Result<(Vec<Description>, Option<String>), Cause> {
        let client = self.aws.client(self.id)?;
        let call = client
            .sdk
            .list_secrets()
            .include_planned_deletion(true)
            .max_results(PAGE);
        let call = call.set_next_token(token.cloned());
        let call = || call.clone().send();
        let answer = self
            .aws
            .call(&client, Operation::List, Urgency::Periodic, call)
            .await;
        client.note(|denied| denied.list = denied.list.after(&answer));
        let (_, answer) = answer?;
        let secrets = answer
            .secret_list
            .unwrap_or_default()
            .into_iter()
            .filter_map(listed)
            .collect();
        Ok((secrets, answer.next_token.filter(|token| !token.is_empty())))
    }
}

fn listed(entry: SecretListEntry) -> Option<Description> {
    let (rotation_window, rotation_schedule) = rules(entry.rotation_rules);
    Some(Description {
        arn: entry.arn?.into(),
        name: entry.name?.into(),
        stages: stages(entry.secret_versions_to_stages),
        deleted: entry.deleted_date.is_some(),
        rotation_enabled: entry.rotation_enabled.unwrap_or_default(),
        last_rotated: entry.last_rotated_date.map(|date| date.secs()),
        next_rotation: entry.next_rotation_date.map(|date| date.secs()),
        rotation_window,
        rotation_schedule,
    })
}
