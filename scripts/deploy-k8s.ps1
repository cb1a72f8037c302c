#!/usr/bin/env pwsh
#Requires -Version 7.3
<#
.SYNOPSIS
Deploy the service to a cluster: check, migrate, apply, wait, smoke-test; put the former version back if that fails.
.DESCRIPTION
-Stack auto (the default) takes Knative where the cluster has it; the overlay is dev unless said otherwise. -DryRun prints
the plan and changes nothing. Production wants an image by digest. Where production's Secret is missing it is made from
POSTGRES_USER_PASSWORD and REDIS_PASSWORD of the environment, with ENCRYPTION_KEY and INTERNAL_API_KEY new if unset.
scripts/deploy-k8s.sh does the same with bash; a test compares their plans.
.EXAMPLE
scripts/deploy-k8s.ps1 -Stack knative -Overlay dev -Image user-service:0.1.0
#>
param(
    [ValidateSet('knative', 'fallback', 'auto')][string]$Stack = 'auto',
    [ValidateSet('dev', 'production')][string]$Overlay = 'dev',
    [string]$Image = '',
    [string]$Context = '',
    [switch]$DryRun
)
$ErrorActionPreference = 'Stop'
# kubectl says "not found" by its exit status, which each step looks at itself.
$PSNativeCommandUseErrorActionPreference = $false
Set-Location (Join-Path $PSScriptRoot '..')

$Namespace = 'microservices'
$Gateway = if ($env:KNATIVE_GATEWAY) { $env:KNATIVE_GATEWAY } else { 'kourier-system/kourier-internal' }
$SmokeSeconds = if ($env:SMOKE_SECONDS) { $env:SMOKE_SECONDS } else { 60 }
$Placeholder = 'development-only|change-?me|replace-?me|placeholder|example\.com|:latest'

# One step a line. What begins with kubectl is run as it stands; the rest are the functions below.
function Get-Plan([string]$Stack, [string]$Overlay, [string]$Image, [string]$Context) {
    $Folder = 'k8s-fallback'
    $Kubectl = "kubectl --context $Context"
    $Steps = @()
    if ($Stack -eq 'knative') { $Folder = 'knative' }
    $Steps += "render $Folder/overlays/$Overlay"
    if ($Image -ne '') { $Steps += "set-image $Image" }
    if ($Overlay -eq 'production') {
        $Steps += 'refuse-placeholders'
        $Steps += 'require-digest'
    }
    $Steps += 'require-kinds'
    $Steps += "$Kubectl apply --filename rendered.yaml --selector app.kubernetes.io/component=setup"
    if ($Overlay -eq 'production') {
        $Steps += 'ensure-secret microservices-secrets'
    }
    else {
        $Steps += "$Kubectl rollout status statefulset/postgres-user --namespace microservices --timeout 180s"
        $Steps += "$Kubectl rollout status deployment/redis --namespace microservices --timeout 180s"
    }
    $Steps += "$Kubectl delete job user-service-migrate --namespace microservices --ignore-not-found"
    $Steps += "$Kubectl apply --filename rendered.yaml --selector app.kubernetes.io/component=migrate"
    $Steps += 'wait-migration user-service-migrate'
    if ($Stack -eq 'knative') {
        $Steps += 'remember services.serving.knative.dev/user-service'
        $Steps += 'remember services.serving.knative.dev/user-service-events'
    }
    else {
        $Steps += 'remember deployment/user-service-deployment'
    }
    $Steps += "$Kubectl apply --filename rendered.yaml --selector app.kubernetes.io/component!=setup,app.kubernetes.io/component!=migrate"
    if ($Stack -eq 'knative') {
        $Steps += 'wait-revision user-service'
        $Steps += 'wait-revision user-service-events'
    }
    else {
        $Steps += "$Kubectl rollout status deployment/user-service-deployment --namespace microservices --timeout 300s"
        if ($Overlay -eq 'production') { $Steps += 'wait-replicas 3' }
    }
    $Steps += 'smoke-test'
    return $Steps
}

function Stop-WithReason([string]$Reason) {
    [Console]::Error.WriteLine("deploy-k8s: $Reason")
    exit 1
}

function Invoke-Cluster { & kubectl --context $Context --namespace $Namespace @args }

function Assert-Success([string]$Reason) {
    if ($LASTEXITCODE -ne 0) { throw $Reason }
}

function Invoke-Render([string]$Folder) {
    $script:OverlayFolder = $Folder
    & kubectl kustomize $Folder | Set-Content $Rendered
    Assert-Success "$Folder does not render"
}

# The overlay again, with every image of ours replaced
function Set-Image([string]$Name) {
    $Digest = ''
    $Tag = ''
    if ($Name.Contains('@')) { $Name, $Digest = $Name.Split('@', 2) }
    $Last = $Name.Substring($Name.LastIndexOf('/') + 1)
    if ($Last.Contains(':')) {
        $Tag = $Last.Split(':', 2)[1]
        $Name = $Name.Substring(0, $Name.LastIndexOf(':'))
    }
    $Folder = [IO.Path]::GetRelativePath($Work, (Resolve-Path $OverlayFolder).Path).Replace('\', '/')
    $Lines = @("resources: [`"$Folder`"]", 'images:', '  - name: user-service', "    newName: `"$Name`"")
    if ($Tag -ne '') { $Lines += "    newTag: `"$Tag`"" }
    if ($Digest -ne '') { $Lines += "    digest: `"$Digest`"" }
    $Lines | Set-Content (Join-Path $Work 'kustomization.yaml')
    $Text = & kubectl kustomize $Work
    Assert-Success "$OverlayFolder does not render with the image $Name"
    $Text | Set-Content $Rendered
}

function Test-Placeholders {
    $Found = Select-String -Path $Rendered -Pattern $Placeholder
    if ($Found) { throw "a value that nobody has filled in: $($Found.Line -join '; ')" }
}

function Test-Digest {
    $Images = Select-String -Path $Rendered -Pattern '^ *(- )?image: '
    if ($Images.Line | Where-Object { $_ -notmatch '@sha256:' }) {
        throw 'production takes an image by digest: -Image REGISTRY/NAME:TAG@sha256:...'
    }
}

function Test-Kinds {
    $Known = Invoke-Cluster api-resources --no-headers | ForEach-Object { ($_ -split '\s+')[-1] }
    $Wanted = Select-String -Path $Rendered -Pattern '^kind: (\S+)' | ForEach-Object { $_.Matches[0].Groups[1].Value }
    $Missing = $Wanted | Sort-Object -Unique | Where-Object { $Known -notcontains $_ }
    if ($Missing) {
        throw "the cluster does not know: $Missing; install what defines them, or leave their component out of the overlay"
    }
}

function New-Key([int]$Bytes) {
    [Convert]::ToBase64String([Security.Cryptography.RandomNumberGenerator]::GetBytes($Bytes))
}

# A new one from the environment, never in an argument that a list of processes shows
function Confirm-Secret([string]$Name) {
    Invoke-Cluster get secret $Name *> $null
    if ($LASTEXITCODE -eq 0) { return }
    if (Select-String -Path $Rendered -Pattern '^kind: ExternalSecret' -Quiet) {
        Invoke-Cluster wait '--for=condition=Ready' "externalsecret/$Name" --timeout 120s
        Assert-Success "the ExternalSecret $Name was not filled"
        return
    }
    $Folder = New-Item -ItemType Directory (Join-Path $Work 'secret')
    foreach ($Key in 'POSTGRES_USER_PASSWORD', 'REDIS_PASSWORD', 'ENCRYPTION_KEY', 'INTERNAL_API_KEY') {
        $Value = [Environment]::GetEnvironmentVariable($Key)
        if (-not $Value) {
            switch ($Key) {
                'ENCRYPTION_KEY' { $Value = 'k1:' + (New-Key 32) }
                'INTERNAL_API_KEY' { $Value = (New-Key 32) -replace '[/+=]', '' }
                default { throw "the Secret $Name is missing, and so is $Key in the environment to make it from" }
            }
            Write-Output "made a new $Key; keep a copy of it apart from the backups (docs/backup-and-recovery.md)"
        }
        if ($Value -match $Placeholder) { throw "$Key is a placeholder" }
        [IO.File]::WriteAllText((Join-Path $Folder $Key), $Value)
    }
    Invoke-Cluster create secret generic $Name "--from-file=$Folder"
    Assert-Success "the Secret $Name could not be made"
    Remove-Item -Recurse $Folder
}

function Wait-Migration([string]$Job) {
    foreach ($Attempt in 1..300) {
        $State = Invoke-Cluster get job $Job --output 'jsonpath={.status.conditions[?(@.status=="True")].type}'
        if ($State -match 'Complete') { return }
        if ($State -match 'Failed') { break }
        Start-Sleep 2
    }
    Invoke-Cluster logs "job/$Job" --tail 30
    throw "the migration did not finish: $State"
}

# The pod template that is in force, to put it back
function Save-Template([string]$Object) {
    $Template = Invoke-Cluster get $Object --output 'jsonpath={.spec.template}' 2> $null
    if ($LASTEXITCODE -eq 0 -and $Template) { $Remembered[$Object] = $Template }
}

# Ready can still be the former revision's: the newest one has to be it
function Wait-Revision([string]$Name) {
    $Output = 'jsonpath={.metadata.generation} {.status.observedGeneration} {.status.latestCreatedRevisionName} ' +
        '{.status.latestReadyRevisionName} {.status.conditions[?(@.type=="Ready")].status}'
    foreach ($Attempt in 1..150) {
        $Seen = "$(Invoke-Cluster get "services.serving.knative.dev/$Name" --output $Output)".Split(' ')
        if ($Seen[0] -eq $Seen[1] -and $Seen[2] -eq $Seen[3] -and $Seen[4] -eq 'True') { return }
        Start-Sleep 2
    }
    throw "the newest revision of $Name did not become ready: $Seen"
}

function Wait-Replicas([int]$Count) {
    foreach ($Attempt in 1..90) {
        $Ready = Invoke-Cluster get deployment/user-service-deployment --output 'jsonpath={.status.readyReplicas}'
        if ([int]"0$Ready" -ge $Count) { return }
        Start-Sleep 2
    }
    throw "$Ready replicas are ready, not ${Count}: kubectl --context $Context describe hpa --namespace $Namespace"
}

function Invoke-SmokeTest {
    $Target, $From, $Port, $Options = 'service/user-service', $Namespace, 3002, @()
    if ($Stack -eq 'knative') {
        $From, $Service = $Gateway.Split('/', 2)
        $Target, $Port = "service/$Service", 80
        $Options += '--host', "user-service.$Namespace.svc.cluster.local"
    }
    if ($Overlay -eq 'production') { $Options += '--read-only' }
    $Log = Join-Path $Work 'forward'
    $Arguments = '--context', $Context, '--namespace', $From, 'port-forward', $Target, ":$Port"
    $Forward = Start-Process kubectl -ArgumentList $Arguments -RedirectStandardOutput $Log -PassThru -NoNewWindow
    try {
        foreach ($Attempt in 1..50) {
            $Line = Select-String -Path $Log -Pattern '^Forwarding from 127\.0\.0\.1:(\d+)' -ErrorAction SilentlyContinue
            if ($Line) { break }
            Start-Sleep -Milliseconds 200
        }
        if (-not $Line) { throw "no port-forward to $Target" }
        $Encoded = Invoke-Cluster get secret microservices-secrets --output 'jsonpath={.data.INTERNAL_API_KEY}'
        $env:INTERNAL_API_KEY = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($Encoded))
        & $Python scripts/smoke_test.py --address "http://127.0.0.1:$($Line[0].Matches[0].Groups[1].Value)" --wait $SmokeSeconds @Options
        Assert-Success 'the smoke test failed'
    }
    finally {
        Stop-Process -InputObject $Forward -ErrorAction SilentlyContinue
    }
}

function Undo-Deployment([string]$Reason) {
    [Console]::Error.WriteLine("deploy-k8s: $Reason")
    Invoke-Cluster get pods --selector app.kubernetes.io/name=user-service
    Invoke-Cluster get events --field-selector type=Warning --sort-by .lastTimestamp | Select-Object -Last 10
    if ($Remembered.Count -eq 0) {
        [Console]::Error.WriteLine('deploy-k8s: there is no former version to go back to; what was applied stays, to be looked at')
        return
    }
    foreach ($Object in $Remembered.Keys) {
        $Patch = Join-Path $Work 'patch.json'
        "[{`"op`": `"replace`", `"path`": `"/spec/template`", `"value`": $($Remembered[$Object])}]" | Set-Content $Patch
        Invoke-Cluster patch $Object --type json --patch-file $Patch
    }
    [Console]::Error.WriteLine("deploy-k8s: rolled back $($Remembered.Keys); the schema of the database stays where the migration brought it")
}

function Invoke-Step([string]$Step) {
    $Words = $Step.Replace('rendered.yaml', $Rendered).Split(' ')
    switch ($Words[0]) {
        'kubectl' { & kubectl @($Words[1..($Words.Count - 1)]); Assert-Success 'kubectl failed' }
        'render' { Invoke-Render $Words[1] }
        'set-image' { Set-Image $Words[1] }
        'refuse-placeholders' { Test-Placeholders }
        'require-digest' { Test-Digest }
        'require-kinds' { Test-Kinds }
        'ensure-secret' { Confirm-Secret $Words[1] }
        'wait-migration' { Wait-Migration $Words[1] }
        'remember' { Save-Template $Words[1] }
        'wait-revision' { Wait-Revision $Words[1] }
        'wait-replicas' { Wait-Replicas $Words[1] }
        'smoke-test' { Invoke-SmokeTest }
        default { throw "no such step: $Step" }
    }
}

$Python = (Get-Command -Name @('python3', 'python') -ErrorAction SilentlyContinue | Select-Object -First 1).Source
if (-not (Get-Command kubectl -ErrorAction SilentlyContinue)) { Stop-WithReason 'kubectl is not on PATH; install it' }
if (-not $Python) { Stop-WithReason 'python3 is not on PATH; install it' }
if ($Context -eq '') {
    $Context = & kubectl config current-context 2> $null
    if (-not $Context) { Stop-WithReason 'no cluster: set KUBECONFIG, or name a context with -Context (kubectl config get-contexts lists them)' }
}
if ($Stack -eq 'auto') {
    $Served = & kubectl --context $Context api-versions
    if ($LASTEXITCODE -ne 0) { Stop-WithReason "the cluster of context '$Context' does not answer" }
    $Stack = if ($Served -contains 'serving.knative.dev/v1') { 'knative' } else { 'fallback' }
}
$Steps = Get-Plan $Stack $Overlay $Image $Context
if ($DryRun) {
    $Steps
    exit 0
}

$Work = (New-Item -ItemType Directory (Join-Path ([IO.Path]::GetTempPath()) "user-service-$([Guid]::NewGuid())")).FullName
$Rendered = Join-Path $Work 'rendered.yaml'
$Remembered = [ordered]@{}
try {
    foreach ($Step in $Steps) {
        Write-Output "--- $Step"
        try { Invoke-Step $Step }
        catch {
            Undo-Deployment "failed at: $Step ($_)"
            exit 1
        }
    }
}
finally {
    Remove-Item -Recurse -Force $Work
}
Write-Output "deployed: $Stack/$Overlay on $Context"
