-- Health of Keyturn's kinds for Argo CD. In the ConfigMap argocd-cm, once for each kind:
--
--   resource.customizations.health.keyturn.dev_ExternalSecret: |
--     <this file>
--
-- Healthy, Progressing and Degraded follow the condition Ready, as `kubectl wait --for=condition=Ready` and kstatus do. Of
-- what is not ready, Progressing passes by itself and Degraded needs a person. Suspended comes first: nothing is tried
-- meanwhile, so nothing else would change.

local waiting = {
  StoreNotFound = true,
  StoreNotReady = true,
  Throttled = true,
  ProviderUnavailable = true,
}

local health = { status = "Progressing", message = "Waiting for Keyturn" }
local status = obj.status or {}
local conditions = status.conditions or {}

-- A store shows its suspension by the annotation only. Times in UTC compare as text, as do those of one day elsewhere.
if obj.kind == "SecretStore" or obj.kind == "ClusterSecretStore" then
  local annotations = obj.metadata.annotations or {}
  local suspended = annotations["keyturn.dev/suspend-sync-until"]
  local os = require("os")
  if suspended ~= nil and suspended > os.date("!%Y-%m-%dT%H:%M:%SZ") then
    health.status = "Suspended"
    health.message = "Suspended until " .. suspended
    return health
  end
end

for _, condition in ipairs(conditions) do
  if condition.type == "Current" and condition.reason == "Suspended" then
    health.status = "Suspended"
    health.message = condition.message
    return health
  end
end

-- A status of an earlier generation says nothing of this one, and -1 is that of an object that Keyturn has not looked at.
if status.observedGeneration ~= nil and status.observedGeneration ~= obj.metadata.generation then
  return health
end

for _, condition in ipairs(conditions) do
  if condition.type == "Ready" then
    health.message = condition.message
    if condition.status == "True" then
      health.status = "Healthy"
    elseif condition.status == "False" and not waiting[condition.reason] then
      health.status = "Degraded"
    end
  end
end

return health
