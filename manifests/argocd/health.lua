-- The health of an InferenceService for Argo CD, from its conditions.
local function answer(status, message)
  return { status = status, message = message or "" }
end

local spec = obj.spec or {}
if spec.suspend == "Enabled" then
  return answer("Suspended", "spec.suspend is Enabled")
end

local status = obj.status or {}
if status.observedGeneration == nil or status.observedGeneration < obj.metadata.generation then
  return answer("Progressing", "The operator has not seen this generation yet")
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

if holds("Stalled") then
  return answer("Degraded", conditions.Stalled.message)
end
if holds("Reconciling") then
  return answer("Progressing", conditions.Reconciling.message)
end
if holds("Ready") then
  return answer("Healthy", conditions.Ready.message)
end
-- Nothing is being changed and nothing has to be edited, yet it does not serve: it is being repaired.
return answer("Progressing", conditions.Ready and conditions.Ready.message or "")
