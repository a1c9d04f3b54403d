-- Health of Keyturn's kinds for Argo CD, by the condition Ready. In the ConfigMap argocd-cm, once for each kind:
--
--   resource.customizations.health.keyturn.dev_ExternalSecret: |
--     <this file>
--
-- It agrees with `kubectl wait --for=condition=Ready` and with kstatus on what is ready; of what is not it tells what
-- passes by itself (Progressing) from what a person must mend (Degraded).

local waiting = {
  StoreNotFound = true,
  StoreNotReady = true,
  Throttled = true,
  ProviderUnavailable = true,
}

local health = { status = "Progressing", message = "Waiting for Keyturn" }

if obj.status == nil or obj.status.conditions == nil then
  return health
end

-- What is said of an earlier spec says nothing of this one.
if obj.status.observedGeneration ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end

for _, condition in ipairs(obj.status.conditions) do
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
