//! What restarts need on a Secret whose content is right: put there from the live Secret, without a read of AWS.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use zeroize::Zeroize as _;

use super::{outcome::Stop, pass::Pass, timing::BEHIND, write::wipe};
use crate::{
    api::{
        ExternalSecret,
        names::{self, annotation},
    },
    sync::{
        decide::{
            comparison::Comparison,
            render::{Content, Template},
        },
        plan,
    },
};

impl Pass<'_> {
    /// Writes what is missing: restarts were enabled, or other keys count, or the key of the tokens is another one.
    pub(super) async fn stamp(&self, comparison: &Comparison) -> Result<(), Stop> {
        let slots = &self.context.capacity.slots.secrets;
        let slot = slots.take(&self.object.namespace).await;
        let _slot = slot.map_err(|wait| Stop::WaitFor(Some(wait)))?;
        let cluster = self.context.view.writer.cluster();
        let live = cluster.find::<ExternalSecret>(self.object).await;
        let live = live.map_err(|error| self.kubernetes(&error))?.ok_or(Stop::Gone)?;
        let live = self.same_revision(live)?;
        let secret = cluster.find::<Secret>(&comparison.target).await;
        let mut secret = secret
            .map_err(|error| self.kubernetes(&error))?
            .ok_or(Stop::WaitFor(Some(BEHIND)))?;
        let mut data = secret.data.take().unwrap_or_default();
        let recorded = |name: &str| {
            let annotations = secret.metadata.annotations.as_ref()?;
            annotations.get(name).map(String::as_str)
        };
        let type_ = secret.type_.as_deref().unwrap_or(names::OPAQUE);
        let content = self.context.key.content(&comparison.target, type_, &data);
        let right = recorded(annotation::CONTENT) == Some(content.as_str())
            && recorded(annotation::INPUTS) == Some(&*comparison.inputs);
        let template = Template::new(
            self.object,
            &live.entry,
            &live.object,
            &self.context.settings.never_copied,
        );
        let desired = plan::DesiredSecret {
            adopt_existing: false,
            ..template.desired(Content {
                data: &data,
                inputs: &comparison.inputs,
                versions: recorded(annotation::VERSIONS).unwrap_or_default(),
                source: recorded(annotation::SOURCE),
                user: recorded(annotation::USER),
            })
        };
        let applied = if right {
            self.apply(&desired, &comparison.target, true).await
        } else {
            // It changed a moment ago, which wakes the object.
            Err(Stop::WaitFor(Some(BEHIND)))
        };
        for ByteString(bytes) in data.values_mut() {
            bytes.zeroize();
        }
        wipe(&mut secret);
        match applied {
            Ok(_) => Ok(()),
            // The next pass finds the same, and reports it where it reads values.
            Err(Stop::Conflict(_)) => Err(Stop::Retry),
            Err(stop) => Err(stop),
        }
    }
}
