//! Listing a source's secrets.

use super::{
    calls::Aws,
    client::Client,
    error::{Cause, Error},
    limit::{Operation, Urgency},
    remote::Description,
    service::Page,
};
use crate::api::SourceId;

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
            let client = self.aws.client(self.id).map_err(|cause| Error::List { cause })?;
            match self.page(&client, token.as_ref()).await {
                Ok(Page { secrets, next }) => {
                    self.state = match next {
                        // A token that leads to itself would never end.
                        Some(next) if token.as_ref() != Some(&next) => Next::Token(next),
                        _ => Next::End,
                    };
                    return Ok(Some(secrets));
                }
                Err(cause) => {
                    let is_lost = cause.code.as_deref() == Some(client.source.service.lost_page);
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

    async fn page(&self, client: &Client, token: Option<&String>) -> Result<Page, Cause> {
        let call = |home| client.calls.list(token.cloned(), home);
        let answer = self.aws.call(client, Operation::List, Urgency::Periodic, call);
        let answer = answer.await;
        client.note(|denied| denied.list = denied.list.after(&answer));
        Ok(answer?.1)
    }
}
